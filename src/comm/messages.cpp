#include "comm/messages.h"

#include <cstring>

#include "core/error.h"

namespace scfa {

namespace {

std::string packed(const std::vector<std::string>& texts) {
  std::string all;
  for (const std::string& text : texts) {
    const uint64_t size = text.size();
    all.append(reinterpret_cast<const char*>(&size), sizeof size).append(text);
  }
  return all;
}

std::vector<std::string> unpacked(const std::string& all) {
  std::vector<std::string> texts;
  for (size_t at = 0; at + sizeof(uint64_t) <= all.size();) {
    uint64_t size = 0;
    std::memcpy(&size, all.data() + at, sizeof size);
    texts.push_back(all.substr(at + sizeof size, size));
    at += sizeof size + size;
  }
  return texts;
}

}  // namespace

std::vector<std::string> Messages::all_gather(const char* what, const std::string& mine) {
  if (c_.size == 1) return {mine};
  const std::string tag = concat(count_++, ' ', what);
  if (c_.rank == 0) return gather_and_answer(tag, mine);
  std::string answer;
  if (!c_.messages[0].write_message(tag) || !c_.messages[0].write_message(mine) ||
      !c_.messages[0].read_message(&answer))
    c_.fail_gone(0);
  return unpacked(answer);
}

std::vector<std::string> Messages::gather_and_answer(const std::string& tag, const std::string& mine) {
  std::vector<std::string> texts(c_.peers.size());
  texts[0] = mine;
  for (size_t r = 1; r < texts.size(); ++r) {
    std::string its;
    if (!c_.messages[r].read_message(&its) || !c_.messages[r].read_message(&texts[r])) c_.fail_gone(r);
    require(its == tag, c_.name_of(r), " is out of step with rank 0: in exchange ", its, " instead of ", tag);
  }
  const std::string all = packed(texts);
  for (size_t r = 1; r < texts.size(); ++r)
    if (!c_.messages[r].write_message(all)) c_.fail_gone(r);
  return texts;
}

}  // namespace scfa
