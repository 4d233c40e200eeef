#include "program_check.h"

#include <caffe2/serialize/inline_container.h>
#include <torch/csrc/jit/ir/alias_analysis.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/passes/inliner.h>
#include <torch/script.h>

#include <algorithm>
#include <limits>
#include <memory>
#include <optional>
#include <sstream>
#include <string_view>
#include <unordered_set>

#include "operator_lists.h"
#include "rl_hotswap.hpp"

namespace rl_hotswap {

namespace {

using torch::jit::Block;
using torch::jit::Node;
using torch::jit::Value;

[[noreturn]] void refuse(const std::string& name, const std::string& why) {
  throw DoesNotVerify("replace " + name + ", which " + why);
}

// Nodes that only arrange values. They write nothing and read nothing outside of the program.
const std::unordered_set<std::string>& arranging() {
  static const std::unordered_set<std::string> names = {
      "prim::Constant",   "prim::ListConstruct", "prim::ListUnpack",     "prim::TupleConstruct", "prim::TupleUnpack",
      "prim::TupleIndex", "prim::TupleSlice",    "prim::DictConstruct",  "prim::GetAttr",        "prim::If",
      "prim::Loop",       "prim::Uninitialized", "prim::RaiseException", "prim::unchecked_cast", "prim::isinstance",
      "prim::DictIndex",  "prim::NumToTensor",   "prim::EnumValue",      "prim::annotate"};
  return names;
}

class OperatorCheck {
 public:
  OperatorCheck(torch::jit::Module module, std::shared_ptr<torch::jit::Graph> graph)
      : module_(std::move(module)), graph_(std::move(graph)), aliases_(graph_) {}

  void run() { check(graph_->block()); }

 private:
  void check(Block* block) {
    for (Node* node : block->nodes()) check(node);
  }

  void check(Node* node) {
    const std::string kind = node->kind().toQualString();
    const std::string name = node->kind().is_aten() ? node->kind().toUnqualString() : kind;
    if (arranging().count(kind) == 0 && kPureOperators.count(name) == 0) {
      refuse(name, "is not on the list of pure and deterministic operators");
    }
    if (kind == "prim::Loop") check_loop(node);
    check_randomness(node, name);
    check_writes(node, name);
    const auto condition = kind == "prim::If" ? constant(node->input(0)) : std::nullopt;
    if (condition && condition->isBool()) {
      check(node->blocks()[condition->toBool() ? 0 : 1]);
      return;
    }
    for (Block* block : node->blocks()) check(block);
  }

  void check_loop(const Node* node) const {
    const auto laps = constant(node->input(0));
    if (laps && laps->isInt() && laps->toInt() == std::numeric_limits<std::int64_t>::max()) {
      refuse("while", "has no bound");
    }
  }

  void check_randomness(const Node* node, const std::string& name) const {
    const auto found = kRandomUnless.find(name);
    if (found == kRandomUnless.end()) return;
    const auto holds = [&](const Condition& condition) { return this->holds(node, condition); };
    const bool is_pure = std::any_of(found->second.begin(), found->second.end(), [&](const auto& conditions) {
      return std::all_of(conditions.begin(), conditions.end(), holds);
    });
    if (!is_pure) refuse(name, "is random, or changes the module, in training mode");
  }

  bool holds(const Node* node, const Condition& condition) const {
    const auto position = node->schema().argumentIndexWithName(condition.argument);
    const auto value = position ? constant(node->input(static_cast<std::size_t>(*position))) : std::nullopt;
    if (!value) return false;
    switch (condition.value) {
      case Required::kFalse:
        return value->isBool() && !value->toBool();
      case Required::kZero:
        return value->isDouble() && value->toDouble() == 0.0;
      default:
        return value->isNone();
    }
  }

  void check_writes(Node* node, const std::string& name) {
    const auto* const schema = node->maybeSchema();
    if (schema == nullptr || !schema->is_mutable()) return;
    for (std::size_t i = 0; i < schema->arguments().size(); ++i) {
      const auto* const alias = schema->arguments()[i].alias_info();
      if (alias != nullptr && alias->isWrite() && !is_local(node->input(i))) {
        refuse(name, "writes into an input, a weight or an attribute");
      }
    }
  }

  // Returns true if the same call made the value. What comes out of the inputs or the module may be any part of them.
  bool is_local(Value* value) {
    const bool is_container =
        value->type()->kind() == c10::TypeKind::ListType || value->type()->kind() == c10::TypeKind::DictType;
    const auto* const schema = value->node()->maybeSchema();
    // The result of `list += other` is the list.
    if (is_container && schema != nullptr && schema->is_mutable()) return is_local(value->node()->input(0));
    const auto kind = value->node()->kind();
    if (kind == c10::prim::ListConstruct || kind == c10::prim::DictConstruct) return true;
    return !aliases_.mayContainAlias(value, graph_->inputs());
  }

  // Returns a constant, or an attribute of the module: nothing that passes the check changes one.
  std::optional<c10::IValue> constant(const Value* value) const {
    if (auto known = torch::jit::toIValue(value)) return known;
    if (value == graph_->inputs().front()) return module_._ivalue();
    const Node* const node = value->node();
    if (node->kind() != c10::prim::GetAttr) return std::nullopt;
    const auto holder = constant(node->input());
    if (!holder || !holder->isObject()) return std::nullopt;
    return holder->toObjectRef().getAttr(node->s(c10::attr::name));
  }

  torch::jit::Module module_;
  std::shared_ptr<torch::jit::Graph> graph_;
  torch::jit::AliasDb aliases_;
};

bool ends_with(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

}  // namespace

void check_archive(const std::string& program) {
  std::istringstream stream(program);
  caffe2::serialize::PyTorchStreamReader reader(&stream);  // the reader with which torch loads it
  if (!reader.hasRecord("data.pkl") || reader.hasRecord("model.json")) {
    throw DoesNotVerify("not a TorchScript archive: expected data.pkl");
  }
  for (const std::string& name : reader.getAllRecords()) {
    const bool is_code = name.rfind("code/", 0) == 0 && ends_with(name, ".py");
    if (!is_code && !ends_with(name, ".pkl")) continue;
    const auto [data, size] = reader.getRecord(name);
    std::string text(static_cast<const char*>(data.get()), size);
    if (is_code && text.find("__setstate__") != std::string::npos) {
      refuse("__setstate__", "runs while the archive is loaded");
    }
    std::replace(text.begin(), text.end(), '\n', '.');  // a pickle has one between a class and its package
    if (text.find("__torch__.torch.classes.") != std::string::npos) refuse("torch.classes", "is native code");
  }
}

void check_operators(const torch::jit::Module& module) {
  auto graph = module.get_method("forward").graph()->copy();
  torch::jit::Inline(*graph);
  OperatorCheck(module, std::move(graph)).run();
}

}  // namespace rl_hotswap
