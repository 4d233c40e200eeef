#include "store_listing.h"

#include <dirent.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <utility>

#include "rl_hotswap.hpp"

namespace rl_hotswap {

namespace {

constexpr std::int64_t kMaxJump = 1000000;  // as in shared/store/version_numbers.py
constexpr std::string_view kMarkPrefix = ".highest-";

struct CloseDirectory {
  void operator()(DIR* directory) const { ::closedir(directory); }
};

struct Numbers {
  std::vector<std::int64_t> versions;
  std::vector<std::int64_t> marks;
};

void add(Numbers& numbers, const dirent& entry) {
  const std::string name(entry.d_name);
  if (name.rfind(kMarkPrefix, 0) == 0) {
    const auto mark = parse_version_name("v" + name.substr(kMarkPrefix.size()));
    if (mark) numbers.marks.push_back(*mark);
  } else if (entry.d_type == DT_DIR || entry.d_type == DT_UNKNOWN) {  // opening refuses what is no directory
    const auto version = parse_version_name(name);
    if (version) numbers.versions.push_back(*version);
  }
}

Numbers list(const std::string& store) {
  const std::unique_ptr<DIR, CloseDirectory> directory(::opendir(store.c_str()));
  if (!directory && errno == ENOENT) return {};
  if (!directory) throw Unavailable("cannot list " + store + ": " + std::strerror(errno));
  Numbers numbers;
  while (true) {
    errno = 0;
    const dirent* const entry = ::readdir(directory.get());
    if (entry == nullptr && errno != 0) throw Unavailable("cannot list " + store + ": " + std::strerror(errno));
    if (entry == nullptr) break;
    add(numbers, *entry);
  }
  std::sort(numbers.versions.begin(), numbers.versions.end());
  std::sort(numbers.marks.begin(), numbers.marks.end());
  return numbers;
}

}  // namespace

std::optional<std::int64_t> parse_version_name(std::string_view name) {
  const std::string_view digits = name.substr(std::min<std::size_t>(1, name.size()));
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  const bool has_length = digits.size() == 6 || (digits.size() > 6 && digits.size() <= 18 && digits.front() != '0');
  if (name.substr(0, 1) != "v" || !has_length || !std::all_of(digits.begin(), digits.end(), is_digit)) {
    return std::nullopt;
  }
  std::int64_t version = 0;
  std::from_chars(digits.data(), digits.data() + digits.size(), version);
  return version;
}

std::string version_name(std::int64_t version) {
  std::array<char, 32> name{};
  std::snprintf(name.data(), name.size(), "v%06lld", static_cast<long long>(version));
  return name.data();
}

std::vector<std::int64_t> list_versions(const std::string& store) {
  Numbers numbers = list(store);
  std::int64_t used = numbers.marks.empty() ? -1 : numbers.marks.front();
  for (const std::int64_t mark : numbers.marks) {
    if (mark <= used + kMaxJump) used = mark;
  }
  const auto reached = std::upper_bound(numbers.versions.begin(), numbers.versions.end(), used + kMaxJump);
  numbers.versions.erase(reached, numbers.versions.end());
  return numbers.versions;
}

DirectoryWatch::DirectoryWatch(std::string path)
    : path_(std::move(path)),
      woken_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      changes_(::inotify_init1(IN_CLOEXEC | IN_NONBLOCK)) {
  if (woken_.get() < 0) throw Unavailable(std::string("no event descriptor: ") + std::strerror(errno));
  watch();
}

void DirectoryWatch::watch() {
  if (watched_ < 0 && changes_.get() >= 0) {
    watched_ =
        ::inotify_add_watch(changes_.get(), path_.c_str(), IN_MOVED_TO | IN_CREATE | IN_DELETE_SELF | IN_ONLYDIR);
  }
}

void DirectoryWatch::wait(double timeout_s) {
  watch();
  std::array<pollfd, 2> descriptors{{{woken_.get(), POLLIN, 0}, {changes_.get(), POLLIN, 0}}};
  const double milliseconds = std::ceil(std::clamp(timeout_s, 0.0, 1e6) * 1e3);
  ::poll(descriptors.data(), descriptors.size(), static_cast<int>(milliseconds));
  std::uint64_t count = 0;
  (void)!::read(woken_.get(), &count, sizeof count);
  alignas(inotify_event) std::array<char, 4096> events{};
  ssize_t length = 0;
  while ((length = ::read(changes_.get(), events.data(), events.size())) > 0) {
    for (ssize_t at = 0; at < length;) {
      const auto* const event = reinterpret_cast<const inotify_event*>(events.data() + at);
      if ((event->mask & IN_IGNORED) != 0) watched_ = -1;  // the directory was removed: another may take its name
      at += static_cast<ssize_t>(sizeof(inotify_event) + event->len);
    }
  }
}

void DirectoryWatch::wake() {
  const std::uint64_t one = 1;
  (void)!::write(woken_.get(), &one, sizeof one);
}

}  // namespace rl_hotswap
