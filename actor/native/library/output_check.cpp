#include "output_check.h"

#include <ATen/Functions.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <limits>
#include <numeric>
#include <utility>

#include "rl_hotswap.hpp"
#include "safetensors.h"

namespace rl_hotswap {

namespace {

constexpr double kLargest = std::numeric_limits<double>::max();
constexpr double kBoundTolerance = 1e-6;  // as in shared/policy/output_bounds.py: the policy clips in float32

std::vector<double> of_box(const std::vector<double>& bounds, double sign) {
  std::vector<double> widened;
  for (const double bound : bounds) {
    const double wide = bound + sign * kBoundTolerance * std::max(1.0, std::abs(bound));
    widened.push_back(std::clamp(wide, -kLargest, kLargest));
  }
  return widened;
}

// Returns the number of values of each choice: one for each number of a row, or one for all of them.
std::vector<std::int64_t> choices(const ActionSpace& action) {
  return action.kind == "multi_binary" ? std::vector<std::int64_t>{2} : action.cardinalities;
}

std::optional<std::size_t> position(const std::vector<TensorSpec>& specs, const std::string& name) {
  const auto is_named = [&](const TensorSpec& spec) { return spec.name == name; };
  const auto found = std::find_if(specs.begin(), specs.end(), is_named);
  if (found == specs.end()) return std::nullopt;
  return static_cast<std::size_t>(found - specs.begin());
}

std::int64_t numbers_of(const TensorSpec& spec) {
  std::int64_t numbers = 1;
  for (std::size_t i = 1; i < spec.shape.size(); ++i) numbers *= spec.shape[i];
  return numbers;
}

std::string text_of(double number) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%g", number);
  return text.data();
}

template <typename Number>
std::optional<double> outside_of(const at::Tensor& tensor, const std::vector<double>& low,
                                 const std::vector<double>& high) {
  const Number* const numbers = tensor.const_data_ptr<Number>();
  const std::size_t count = static_cast<std::size_t>(tensor.numel());
  for (std::size_t i = 0, bound = 0; i < count; ++i, bound = bound + 1 == low.size() ? 0 : bound + 1) {
    const auto number = static_cast<double>(numbers[i]);
    if (!(number >= low[bound] && number <= high[bound])) return number;  // also NaN
  }
  return std::nullopt;
}

// Returns the first number outside of its bounds.
std::optional<double> outside(const at::Tensor& tensor, const std::vector<double>& low,
                              const std::vector<double>& high) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return outside_of<float>(tensor, low, high);
    case at::kLong:
      return outside_of<std::int64_t>(tensor, low, high);
    default:
      return outside_of<double>(tensor.to(at::kDouble), low, high);
  }
}

}  // namespace

OutputCheck::OutputCheck(const Manifest& manifest)
    : cardinalities_(choices(manifest.action)),
      action_(position(manifest.outputs, "action")),
      mask_(position(manifest.inputs, "action_mask")) {
  if (!manifest.is_policy() || !action_) throw DoesNotVerify("expected a policy with the output action");
  const ActionSpace& action = manifest.action;
  const bool is_box = action.kind == "box";
  for (const TensorSpec& spec : manifest.outputs) {
    Bounds bounds{spec.name, scalar_type(spec.dtype), spec.shape, {-kLargest}, {kLargest}};
    if (spec.name == "env_action" && is_box) {
      bounds.low = of_box(action.low, -1.0);
      bounds.high = of_box(action.high, 1.0);
    } else if ((spec.name == "env_action" || spec.name == "action") && !is_box) {
      const bool has_start = spec.name == "env_action" && !action.start.empty();
      bounds.low = has_start ? action.start : std::vector<double>(cardinalities_.size(), 0.0);
      bounds.high = bounds.low;
      for (std::size_t i = 0; i < std::min(bounds.high.size(), cardinalities_.size()); ++i) {
        bounds.high[i] += static_cast<double>(cardinalities_[i] - 1);
      }
    }
    const auto numbers = static_cast<std::size_t>(numbers_of(spec));
    if (bounds.low.size() != bounds.high.size() || (bounds.low.size() != 1 && bounds.low.size() != numbers)) {
      throw DoesNotVerify(spec.name + ": its shape does not fit the action space");
    }
    outputs_.push_back(std::move(bounds));
  }
  if (mask_) check_mask_shape(manifest.inputs[*mask_], manifest.outputs[*action_]);
}

// `check_mask` relies on it.
void OutputCheck::check_mask_shape(const TensorSpec& mask, const TensorSpec& action) const {
  const std::int64_t all = std::accumulate(cardinalities_.begin(), cardinalities_.end(), std::int64_t{0});
  if (mask.dtype != "bool" || action.dtype != "int64" || numbers_of(mask) != all ||
      numbers_of(action) != static_cast<std::int64_t>(cardinalities_.size())) {
    throw DoesNotVerify("action_mask: its shape or type does not fit the action space");
  }
}

void OutputCheck::check(std::int64_t rows, const std::vector<at::Tensor>& outputs,
                        const std::vector<at::Tensor>& inputs) const {
  if (outputs.size() != outputs_.size()) {
    throw DoesNotVerify("expected " + std::to_string(outputs_.size()) + " outputs, found " +
                        std::to_string(outputs.size()));
  }
  for (std::size_t i = 0; i < outputs_.size(); ++i) {
    const Bounds& bounds = outputs_[i];
    const at::Tensor& output = outputs[i];
    const at::IntArrayRef sizes = output.sizes();
    const bool fits = output.scalar_type() == bounds.dtype && output.layout() == at::kStrided && !output.is_conj() &&
                      !output.is_neg() && sizes.size() == bounds.shape.size() && sizes.front() == rows &&
                      std::equal(sizes.begin() + 1, sizes.end(), bounds.shape.begin() + 1);
    if (!fits) throw DoesNotVerify("output " + bounds.name + ": another type or shape than the signature promises");
    const std::optional<double> wrong = outside(output.contiguous(), bounds.low, bounds.high);
    if (wrong) throw DoesNotVerify("output " + bounds.name + ": " + text_of(*wrong) + " is not in its space");
  }
  if (mask_) check_mask(outputs[*action_].contiguous(), inputs[*mask_]);
}

// The mask has a row of numbers for each choice, one after another.
void OutputCheck::check_mask(const at::Tensor& actions, const at::Tensor& mask) const {
  const auto* const chosen = actions.const_data_ptr<std::int64_t>();
  const bool* const allowed = mask.const_data_ptr<bool>();
  const auto count = static_cast<std::size_t>(actions.numel());
  std::size_t row_begin = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t choice = i % cardinalities_.size();
    if (!allowed[row_begin + static_cast<std::size_t>(chosen[i])]) {
      throw DoesNotVerify("output action: the action mask forbids " + std::to_string(chosen[i]));
    }
    row_begin += static_cast<std::size_t>(cardinalities_[choice]);
  }
}

}  // namespace rl_hotswap
