// The passage of objects between a loading thread and an acting one. Neither waits for the other.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

namespace rl_hotswap {

// `Item` has a member `Item* next`. One thread calls `offer` and `collect`, one calls `take` and `give_back`.
template <typename Item>
class HandOver {
 public:
  HandOver() = default;
  HandOver(const HandOver&) = delete;
  HandOver& operator=(const HandOver&) = delete;
  ~HandOver() {
    take();
    collect();
  }

  // Makes `item` the next that is taken. Returns the one before it if that was not taken.
  std::unique_ptr<Item> offer(std::unique_ptr<Item> item) {
    return std::unique_ptr<Item>(offered_.exchange(item.release(), std::memory_order_acq_rel));
  }

  bool has_offer() const { return offered_.load(std::memory_order_acquire) != nullptr; }

  std::unique_ptr<Item> take() {
    if (offered_.load(std::memory_order_relaxed) == nullptr) return nullptr;
    return std::unique_ptr<Item>(offered_.exchange(nullptr, std::memory_order_acq_rel));
  }

  // Gives an item back, so that the loading thread destroys or reuses it.
  void give_back(std::unique_ptr<Item> item) {
    if (!item) return;
    Item* const given = item.release();
    given->next = returned_.load(std::memory_order_relaxed);
    while (!returned_.compare_exchange_weak(given->next, given, std::memory_order_release, std::memory_order_relaxed)) {
    }
  }

  std::vector<std::unique_ptr<Item>> collect() {
    std::vector<std::unique_ptr<Item>> items;
    Item* item = returned_.exchange(nullptr, std::memory_order_acquire);
    while (item != nullptr) {
      Item* const next = item->next;
      items.emplace_back(item);
      item = next;
    }
    return items;
  }

 private:
  std::atomic<Item*> offered_{nullptr};
  std::atomic<Item*> returned_{nullptr};
};

}  // namespace rl_hotswap
