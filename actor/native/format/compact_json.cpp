#include "compact_json.h"

#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

namespace rl_hotswap {

namespace {

using nlohmann::json;

constexpr std::size_t kMaxDepth = 64;  // a manifest has about five levels

// An array or object in progress: its text so far, and an object's members by name.
struct Open {
  bool is_object;
  std::string key;
  std::string text;
  std::map<std::string, std::string> members;
};

std::string json_text(const std::string& text) { return json(text).dump(); }

std::string closed(const Open& open) { return open.is_object ? "{" + open.text + "}" : "[" + open.text + "]"; }

// The parser calls it for every token in order. Numbers come with their original text.
class Compactor : public json::json_sax_t {
 public:
  std::map<std::string, std::string> members;

  bool null() override { return add("null"); }
  bool boolean(bool value) override { return add(value ? "true" : "false"); }
  bool number_integer(number_integer_t value) override { return add(std::to_string(value)); }
  bool number_unsigned(number_unsigned_t value) override { return add(std::to_string(value)); }
  bool number_float(number_float_t /*value*/, const string_t& text) override { return add(text); }
  bool string(string_t& value) override { return add(json_text(value)); }
  bool binary(binary_t& /*value*/) override { return false; }
  bool start_object(std::size_t /*elements*/) override { return begin(true); }
  bool start_array(std::size_t /*elements*/) override { return begin(false); }
  bool end_object() override { return end(); }
  bool end_array() override { return end(); }
  bool key(string_t& value) override {
    open_.back().key = value;
    return true;
  }
  bool parse_error(std::size_t /*position*/, const std::string& /*token*/, const json::exception& error) override {
    throw MalformedJson(error.what());
  }

 private:
  std::vector<Open> open_;

  bool begin(bool is_object) {
    if (open_.size() == kMaxDepth) throw MalformedJson("it is nested too deeply");
    open_.push_back({is_object, {}, {}, {}});
    return true;
  }

  bool end() {
    const Open ended = std::move(open_.back());
    open_.pop_back();
    if (!open_.empty()) return add(closed(ended));
    if (!ended.is_object) throw MalformedJson("expected a JSON object, found an array");
    members = ended.members;
    return true;
  }

  bool add(const std::string& value) {
    if (open_.empty()) throw MalformedJson("expected a JSON object, found " + value.substr(0, 40));
    Open& open = open_.back();
    if (!open.text.empty()) open.text += ",";
    if (open.is_object) {
      open.text += json_text(open.key) + ":";
      if (!open.members.emplace(open.key, value).second) {
        throw MalformedJson("the key " + json_text(open.key) + " occurs twice");
      }
    }
    open.text += value;
    return true;
  }
};

}  // namespace

std::map<std::string, std::string> compact_members(std::string_view json_object) {
  Compactor compactor;
  json::sax_parse(json_object.begin(), json_object.end(), &compactor);
  return compactor.members;
}

}  // namespace rl_hotswap
