// BLAKE3 in its hash mode, for data in memory, after sections 2.1 to 2.5 of the specification at
// https://github.com/BLAKE3-team/BLAKE3-specs. Four chunks are hashed at once, one in each lane of a vector.
#include "blake3.h"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace rl_hotswap {

namespace {

constexpr std::size_t kBlockBytes = 64;
constexpr std::size_t kChunkBytes = 1024;
constexpr std::size_t kLanes = 4;
constexpr int kRounds = 7;
constexpr std::uint32_t kChunkStart = 1;
constexpr std::uint32_t kChunkEnd = 2;
constexpr std::uint32_t kParent = 4;
constexpr std::uint32_t kRoot = 8;

using Word = std::uint32_t;
typedef Word Vector __attribute__((vector_size(kLanes * sizeof(Word))));  // of GCC and Clang

template <class T>
using Words = std::array<T, 8>;
template <class T>
using Block = std::array<T, 16>;

constexpr Words<Word> kIv{0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A,
                          0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19};
constexpr std::array<std::size_t, 16> kPermutation{2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8};

// One input of the compression function beside the chaining value and the block.
template <class T>
struct Position {
  T counter_low;
  T counter_high;
  Word block_bytes;
  Word flags;
};

template <class T>
void rotate(T& word, int bits) {
  word = (word >> bits) | (word << (32 - bits));
}

template <class T>
void mix(T& a, T& b, T& c, T& d, const T& x, const T& y) {
  a += b + x;
  d ^= a;
  rotate(d, 16);
  c += d;
  b ^= c;
  rotate(b, 12);
  a += b + y;
  d ^= a;
  rotate(d, 8);
  c += d;
  b ^= c;
  rotate(b, 7);
}

// Replaces `chaining` by the first half of the compression function's output.
template <class T>
void compress(Words<T>& chaining, Block<T> block, const Position<T>& position) {
  const T zero{};
  Block<T> state{};
  std::copy(chaining.begin(), chaining.end(), state.begin());
  for (std::size_t i = 0; i < 4; ++i) state[8 + i] = zero + kIv[i];
  state[12] = position.counter_low;
  state[13] = position.counter_high;
  state[14] = zero + position.block_bytes;
  state[15] = zero + position.flags;
  for (int round = 0; round < kRounds; ++round) {
    for (std::size_t i = 0; i < 4; ++i) {
      mix(state[i], state[4 + i], state[8 + i], state[12 + i], block[2 * i], block[2 * i + 1]);
    }
    for (std::size_t i = 0; i < 4; ++i) {
      mix(state[i], state[4 + (i + 1) % 4], state[8 + (i + 2) % 4], state[12 + (i + 3) % 4], block[8 + 2 * i],
          block[9 + 2 * i]);
    }
    Block<T> permuted{};
    for (std::size_t i = 0; i < 16; ++i) permuted[i] = block[kPermutation[i]];
    block = permuted;
  }
  for (std::size_t i = 0; i < 8; ++i) chaining[i] = state[i] ^ state[8 + i];
}

// Returns the little-endian word of four bytes.
Word whole_word(const char* bytes) {
  Word word = 0;
  for (unsigned int i = 0; i < sizeof(Word); ++i) {
    word |= static_cast<Word>(static_cast<unsigned char>(bytes[i])) << (8 * i);
  }
  return word;
}

Words<Word> chunk_value(std::string_view chunk, std::uint64_t number, Word last_flags) {
  Words<Word> chaining = kIv;
  const std::size_t blocks = std::max<std::size_t>(1, (chunk.size() + kBlockBytes - 1) / kBlockBytes);
  for (std::size_t i = 0; i < blocks; ++i) {
    const std::string_view bytes = chunk.substr(i * kBlockBytes, kBlockBytes);
    std::array<char, kBlockBytes> padded{};
    std::copy(bytes.begin(), bytes.end(), padded.begin());
    Block<Word> block{};
    for (std::size_t j = 0; j < block.size(); ++j) block[j] = whole_word(padded.data() + j * sizeof(Word));
    const Word flags = (i == 0 ? kChunkStart : 0) | (i + 1 == blocks ? kChunkEnd | last_flags : 0);
    const auto block_bytes = static_cast<Word>(bytes.size());
    compress(chaining, block, {static_cast<Word>(number), static_cast<Word>(number >> 32U), block_bytes, flags});
  }
  return chaining;
}

Vector vector_of(const std::array<Word, kLanes>& words) {
  Vector vector;
  std::memcpy(&vector, words.data(), sizeof(vector));
  return vector;
}

// Returns word `at` of each of the chunks.
Vector vector_at(std::string_view chunks, std::size_t at) {
  std::array<Word, kLanes> words{};
  for (std::size_t lane = 0; lane < kLanes; ++lane) words[lane] = whole_word(chunks.data() + lane * kChunkBytes + at);
  return vector_of(words);
}

// Appends the values of `kLanes` whole chunks.
void append_lanes(std::string_view chunks, std::uint64_t number, std::vector<Words<Word>>& values) {
  std::array<Word, kLanes> low{};
  std::array<Word, kLanes> high{};
  for (std::size_t lane = 0; lane < kLanes; ++lane) {
    low[lane] = static_cast<Word>(number + lane);
    high[lane] = static_cast<Word>((number + lane) >> 32U);
  }
  Words<Vector> chaining{};
  for (std::size_t i = 0; i < chaining.size(); ++i) chaining[i] = Vector{} + kIv[i];
  for (std::size_t at = 0; at < kChunkBytes; at += kBlockBytes) {
    Block<Vector> block{};
    for (std::size_t j = 0; j < block.size(); ++j) block[j] = vector_at(chunks, at + j * sizeof(Word));
    const Word flags = (at == 0 ? kChunkStart : 0) | (at + kBlockBytes == kChunkBytes ? kChunkEnd : 0);
    compress(chaining, block, {vector_of(low), vector_of(high), kBlockBytes, flags});
  }
  for (std::size_t lane = 0; lane < kLanes; ++lane) {
    Words<Word> value{};
    for (std::size_t i = 0; i < value.size(); ++i) value[i] = chaining[i][lane];
    values.push_back(value);
  }
}

Words<Word> parent_value(const Words<Word>& left, const Words<Word>& right, Word more_flags) {
  Words<Word> chaining = kIv;
  Block<Word> block{};
  std::copy(left.begin(), left.end(), block.begin());
  std::copy(right.begin(), right.end(), block.begin() + 8);
  compress(chaining, block, {0, 0, kBlockBytes, kParent | more_flags});
  return chaining;
}

Words<Word> root_value(std::string_view data) {
  if (data.size() <= kChunkBytes) return chunk_value(data, 0, kRoot);
  std::vector<Words<Word>> values;
  while (data.size() > kLanes * kChunkBytes) {
    append_lanes(data.substr(0, kLanes * kChunkBytes), values.size(), values);
    data.remove_prefix(kLanes * kChunkBytes);
  }
  for (; !data.empty(); data.remove_prefix(std::min(data.size(), kChunkBytes))) {
    values.push_back(chunk_value(data.substr(0, kChunkBytes), values.size(), 0));
  }
  while (values.size() > 2) {  // the last of an odd number has no sibling, and goes up as it is
    std::size_t parents = 0;
    for (std::size_t i = 0; i + 1 < values.size(); i += 2) {
      values[parents++] = parent_value(values[i], values[i + 1], 0);
    }
    if (values.size() % 2 == 1) values[parents++] = values.back();
    values.resize(parents);
  }
  return parent_value(values[0], values[1], kRoot);
}

}  // namespace

std::string blake3_hex(std::string_view data) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string text;
  for (const Word word : root_value(data)) {
    for (unsigned int shift = 0; shift < 32; shift += 8) {
      text += kDigits[(word >> (shift + 4)) & 15U];
      text += kDigits[(word >> shift) & 15U];
    }
  }
  return text;
}

}  // namespace rl_hotswap
