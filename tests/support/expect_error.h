// Runs a body that must throw Error, and checks that its text names what it should.
#pragma once
#include <gtest/gtest.h>

#include <initializer_list>
#include <string>

#include "core/error.h"

namespace scfa::test {

template <class Body>
void expect_error(const Body& body, std::initializer_list<const char*> parts) {
  try {
    body();
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    for (const char* part : parts)
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what() << "\nlacks " << part;
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << "more than a line: " << error.what();
  }
}

// The same for an error of type E whose text has one part.
template <class E = Error, class Body>
void expect_error(const Body& body, const std::string& part) {
  expect_error(
      [&] {
        try {
          body();
        } catch (const E&) {
          throw;
        } catch (const std::exception& error) {
          ADD_FAILURE() << "another type of error: " << error.what();
          throw;
        }
      },
      {part.c_str()});
}

}  // namespace scfa::test
