#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "core/error.h"
#include "data/output_file.h"

namespace scfa {

namespace fs = std::filesystem;

namespace {

constexpr const char* kPartial = ".partial-";
constexpr size_t kRandom = 6;  // characters that mkdtemp chooses

void sync_folder(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  const bool synced = fd >= 0 && ::fsync(fd) == 0;
  const int error = errno;
  if (fd >= 0) ::close(fd);
  require(synced || error == EINVAL, path, ": cannot be synced: ", std::strerror(error));  // EINVAL: nothing to sync
}

std::string parent_of(const std::string& path) {
  const fs::path parent = fs::path(path).parent_path();
  return parent.empty() ? "." : parent.string();
}

// Calls use(entry, type) for the entries of a folder, at any depth; those of a folder within it only if use says so,
// and before `done` is called for that folder. An error of listing is returned.
template <class Use, class Done>
std::error_code walk(const std::string& folder, const std::string& prefix, const Use& use, const Done& done) {
  std::error_code error;
  for (fs::directory_iterator at(folder, error), end; !error && at != end; at.increment(error)) {
    const std::string entry = prefix + at->path().filename().string();
    std::error_code unknown;
    if (!use(entry, at->symlink_status(unknown).type())) continue;
    if (const std::error_code within = walk(at->path().string(), entry + "/", use, done)) return within;
    done(entry);
  }
  return error;
}

void exchange_in_two_steps(const std::string& staged, const std::string& target) {
  const std::string aside = staged + ".old";
  if (::rename(target.c_str(), aside.c_str()) != 0)
    fail(target, ": cannot be moved out of the way: ", std::strerror(errno));
  if (::rename(staged.c_str(), target.c_str()) != 0) {
    const int error = errno;
    const bool undone = ::rename(aside.c_str(), target.c_str()) == 0;
    fail(target, ": cannot be put in place: ", std::strerror(error), undone ? "" : "; what was there is in " + aside);
  }
  if (::rename(aside.c_str(), staged.c_str()) != 0) fail(aside, ": cannot be renamed: ", std::strerror(errno));
}

}  // namespace

IsOurs is_one_of(std::vector<std::string> entries) {
  std::sort(entries.begin(), entries.end());
  return [entries = std::move(entries)](const std::string& entry) {
    return std::binary_search(entries.begin(), entries.end(), entry);
  };
}

std::vector<std::string> foreign_entries(const std::string& folder, const IsOurs& is_ours) {
  std::vector<std::string> foreign;
  const auto use = [&](const std::string& entry, fs::file_type type) {
    const bool is_folder = type == fs::file_type::directory;
    if ((!is_folder && type != fs::file_type::regular) || !is_ours(entry)) {
      foreign.push_back(entry);
      return false;
    }
    return is_folder;
  };
  const std::error_code error = walk(folder, "", use, [](const std::string&) {});
  require(!error, folder, ": cannot be listed: ", error.message());
  std::sort(foreign.begin(), foreign.end());
  return foreign;
}

std::vector<std::string> remove_our_files(const std::string& folder, const IsOurs& is_ours) {
  std::vector<std::string> stays;
  const auto keep = [&](const std::string& entry) { stays.push_back(folder + "/" + entry); };
  const auto use = [&](const std::string& entry, fs::file_type type) {
    if (type == fs::file_type::directory && is_ours(entry)) return true;
    if (type != fs::file_type::regular || !is_ours(entry) || ::unlink((folder + "/" + entry).c_str()) != 0) keep(entry);
    return false;
  };
  const auto done = [&](const std::string& entry) {
    if (::rmdir((folder + "/" + entry).c_str()) != 0 && errno != ENOTEMPTY) keep(entry);
  };
  const std::error_code error = walk(folder, "", use, done);
  if (::rmdir(folder.c_str()) != 0 && stays.empty() && error != std::errc::no_such_file_or_directory)
    stays.push_back(folder);
  std::sort(stays.begin(), stays.end());
  return stays;
}

std::string follow_links(const std::string& path) {
  fs::path at = path;
  if (!at.has_filename()) at = at.parent_path();
  if (at.filename() == "." || at.filename() == "..") at = fs::absolute(at).lexically_normal();
  if (!at.has_filename()) at = at.parent_path();
  for (int links = 0; links < 40; ++links) {
    std::error_code error;
    if (!fs::is_symlink(fs::symlink_status(at, error))) return at.string();
    const fs::path to = fs::read_symlink(at, error);
    require(!error, at.string(), ": cannot be read: ", error.message());
    at = at.parent_path() / to;  // `to` alone if it is absolute
    if (!at.has_filename()) at = at.parent_path();
  }
  fail(path, ": too many symbolic links lead from one to the next");
}

StagedFolder::StagedFolder(const std::string& target, IsOurs is_ours)
    : target_(follow_links(target)), is_ours_(std::move(is_ours)) {
  const std::string parent = parent_of(target_);
  std::error_code error;
  fs::create_directories(parent, error);
  require(!error, parent, ": cannot be created: ", error.message());
  std::string path = target_ + kPartial + std::string(kRandom, 'X');
  if (::mkdtemp(path.data()) == nullptr) fail(parent, ": cannot be written: ", std::strerror(errno));
  path_ = path;
  ::chmod(path_.c_str(), 0755);
}

StagedFolder::~StagedFolder() {
  if (!path_.empty()) remove_our_files(path_, is_ours_);
}

void StagedFolder::keep(const std::string& why) {
  std::string kept = path_;
  kept.replace(kept.rfind(kPartial), std::strlen(kPartial), ".complete-");  // not stale for the next writer
  if (::rename(path_.c_str(), kept.c_str()) != 0) kept = path_;
  path_.clear();
  fail(why, "; what was to be put there is complete in ", kept);
}

void StagedFolder::commit() {
  sync_folder(path_);
  // Of what may be there rename replaces an empty folder only.
  if (::rename(path_.c_str(), target_.c_str()) != 0) {
    const int error = errno;
    const bool taken = error == ENOTEMPTY || error == EEXIST || error == ENOTDIR;
    keep(concat(
        target_, ": ",
        taken ? "something else was put there meanwhile" : concat("cannot be put in place: ", std::strerror(error))));
  }
  path_.clear();
  sync_folder(parent_of(target_));
}

std::vector<std::string> StagedFolder::replace(const IsOurs& replaceable) {
  sync_folder(path_);
  std::error_code error;
  if (!fs::exists(fs::symlink_status(target_, error))) {
    commit();
    return {};
  }
  if (!fs::is_directory(target_, error)) keep(target_ + ": is not a folder");
  const std::vector<std::string> foreign = foreign_entries(target_, replaceable);
  if (!foreign.empty())
    keep(concat(target_, ": not replaced, because it holds ", foreign.front(),
                foreign.size() > 1 ? concat(" and ", foreign.size() - 1, " more") : "",
                ", which this program did not write"));
  exchange();
  const std::string old = std::move(path_);
  path_.clear();
  sync_folder(parent_of(target_));
  return remove_our_files(old, replaceable);
}

void StagedFolder::exchange() {
  if (::renameat2(AT_FDCWD, path_.c_str(), AT_FDCWD, target_.c_str(), RENAME_EXCHANGE) == 0) return;
  if (errno != EINVAL && errno != ENOSYS) keep(concat(target_, ": cannot be put in place: ", std::strerror(errno)));
  try {
    exchange_in_two_steps(path_, target_);  // a file system that cannot exchange
  } catch (const Error& error) {
    keep(error.what());
  }
}

void StagedFolder::remove_stale(const std::string& target, const IsOurs& is_ours) {
  const std::string at = follow_links(target), start = fs::path(at).filename().string() + kPartial;
  std::vector<std::string> stale;
  std::error_code error;
  for (fs::directory_iterator entry(parent_of(at), error), end; !error && entry != end; entry.increment(error)) {
    const std::string name = entry->path().filename().string();
    std::error_code unknown;
    if (name.starts_with(start) && name.size() == start.size() + kRandom &&
        entry->symlink_status(unknown).type() == fs::file_type::directory)
      stale.push_back(entry->path().string());
  }
  for (const std::string& folder : stale) {
    try {
      if (foreign_entries(folder, is_ours).empty()) remove_our_files(folder, is_ours);
    } catch (const Error&) {  // cannot be listed: not ours to judge
    }
  }
}

}  // namespace scfa
