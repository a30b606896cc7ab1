# Run at every build, with SOURCE_DIR and OUTPUT: writes the source file that names the commit of the sources, if the
# name has changed. "-dirty": the sources differ from the commit.
execute_process(COMMAND git -C ${SOURCE_DIR} rev-parse --short=12 HEAD
  OUTPUT_VARIABLE commit OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
if(commit)
  # Without locks a build does not disturb a git command that runs beside it.
  execute_process(COMMAND git --no-optional-locks -C ${SOURCE_DIR} status --porcelain -- src assets cmake CMakeLists.txt
    OUTPUT_VARIABLE changes ERROR_QUIET)
  if(changes)
    string(APPEND commit "-dirty")
  endif()
else()
  set(commit unknown)
endif()
file(CONFIGURE OUTPUT ${OUTPUT} CONTENT [[
#include "core/version.h"

std::string scfa::git_commit() {
  return "@commit@";
}
]] @ONLY)
