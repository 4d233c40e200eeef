#include "program_check.h"

#include <caffe2/serialize/inline_container.h>
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
      : module_(std::move(module)), graph_(std::move(graph)) {}

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

  // Returns true if the same call made the memory of the value: it may be written to. Whatever comes out of the inputs,
  // the module or a constant is not local, nor is the result of an operator that may return a part of such a value.
  bool is_local(const Value* value) const {
    if (is_plain(value)) return true;
    const Node* const node = value->node();
    switch (node->kind()) {
      case c10::prim::ListConstruct:
      case c10::prim::DictConstruct:
        return true;  // the container, whatever is in it
      case c10::prim::Constant:
      case c10::prim::GetAttr:
      case c10::prim::Param:  // of the graph or of a loop
      case c10::prim::Loop:
        return false;
      case c10::prim::If:
        return std::all_of(node->blocks().begin(), node->blocks().end(),
                           [&](const Block* block) { return is_local(block->outputs()[value->offset()]); });
      default:
        break;
    }
    const auto* const schema = node->maybeSchema();
    if (schema != nullptr && schema->is_mutable()) return is_local(node->input(0));  // `x += y` is x
    const bool is_list = value->type()->kind() == c10::TypeKind::ListType;
    if (!is_list && node->kind().is_aten() && kFreshOperators.count(node->kind().toUnqualString()) != 0) return true;
    return std::all_of(node->inputs().begin(), node->inputs().end(),
                       [&](const Value* input) { return holds_only_local(input); });
  }

  // Returns true if the value is local, with everything in it.
  bool holds_only_local(const Value* value) const {
    const auto kind = value->node()->kind();
    if (kind != c10::prim::ListConstruct && kind != c10::prim::DictConstruct) return is_local(value);
    const auto writes = [](const torch::jit::Use& use) {
      const auto* const schema = use.user->maybeSchema();
      return schema != nullptr && schema->is_mutable();
    };
    const auto inputs = value->node()->inputs();
    return std::none_of(value->uses().begin(), value->uses().end(), writes) &&
           std::all_of(inputs.begin(), inputs.end(), [&](const Value* input) { return holds_only_local(input); });
  }

  // Returns true for values that are no memory: numbers, texts, None.
  static bool is_plain(const Value* value) {
    switch (value->type()->kind()) {
      case c10::TypeKind::IntType:
      case c10::TypeKind::FloatType:
      case c10::TypeKind::BoolType:
      case c10::TypeKind::NoneType:
      case c10::TypeKind::StringType:
      case c10::TypeKind::NumberType:
      case c10::TypeKind::DeviceObjType:
        return true;
      default:
        return false;
    }
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
