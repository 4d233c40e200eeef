// Passes numbered items between two threads as the agent does, for a run under a thread sanitizer. Needs no torch.
#include <array>
#include <cstdint>
#include <cstdio>
#include <thread>

#include "hand_over.h"

namespace {

struct Item {
  std::array<std::uint64_t, 64> numbers;
  Item* next = nullptr;
};

constexpr std::uint64_t kItems = 200000;

std::unique_ptr<Item> make(std::uint64_t number) {
  auto item = std::make_unique<Item>();
  item->numbers.fill(number);
  return item;
}

bool is_whole(const Item& item) {
  for (const std::uint64_t number : item.numbers) {
    if (number != item.numbers.front()) return false;
  }
  return true;
}

}  // namespace

int main() {
  rl_hotswap::HandOver<Item> hand_over;
  std::uint64_t seen_again = 0;
  std::thread loader([&] {
    for (std::uint64_t number = 1; number <= kItems; ++number) {
      for (auto& item : hand_over.collect()) {
        item->numbers.fill(0);  // as weights are replaced
        ++seen_again;
      }
      if (hand_over.offer(make(number))) ++seen_again;
    }
  });
  std::uint64_t last = 0, taken = 0, wrong = 0;
  std::unique_ptr<Item> acting;
  while (last < kItems) {
    if (auto next = hand_over.take()) {
      hand_over.give_back(std::move(acting));
      acting = std::move(next);
      ++taken;
      wrong += acting->numbers.front() <= last ? 1 : 0;
      last = acting->numbers.front();
    }
    if (acting) wrong += is_whole(*acting) ? 0 : 1;
  }
  loader.join();
  std::printf("taken %llu wrong %llu\n", static_cast<unsigned long long>(taken),
              static_cast<unsigned long long>(wrong));
  return wrong == 0 && taken + seen_again >= kItems ? 0 : 1;
}
