#include "dispatch.h"

#include <ATen/Context.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/Layout.h>
#include <c10/core/MemoryFormat.h>

#include <cmath>
#include <deque>

#include "allocators.h"
#include "handles.h"
#include "products.h"
#include "trace.h"

namespace lorafit {
namespace {

using c10::IValue;
using c10::TypeKind;

enum class Kind : uint8_t {
  kTensor,
  kTensors,
  kOptionalTensors,
  kScalar,
  kInt,
  kInts,
  kFloat,
  kFloats,
  kBool,
  kBools,
  kString,
  kDtype,
  kLayout,
  kMemoryFormat,
  kDevice,
  kGenerator,
  kUnsupported
};

/** An argument of the schema, in the form that conversion needs. */
struct Parameter {
  std::string name;
  Kind kind;
  bool optional;   // undefined or null means none
  bool nullable;   // null means an undefined tensor
  int32_t repeats; // N of int[N]: a single number means N copies
  std::optional<IValue> fallback;
};

struct Operation {
  c10::OperatorHandle handle;
  std::string name;
  std::vector<Parameter> parameters;
  bool in_place; // it returns its own arguments
  StandIn stand_in; // if set, called first
};

std::deque<Operation>& operations() {
  static std::deque<Operation> all;
  return all;
}

Kind kind_of_list(const c10::Type& element) {
  switch (element.kind()) {
    case TypeKind::TensorType: return Kind::kTensors;
    case TypeKind::OptionalType: return Kind::kOptionalTensors;
    case TypeKind::IntType:
    case TypeKind::SymIntType: return Kind::kInts;
    case TypeKind::FloatType: return Kind::kFloats;
    case TypeKind::BoolType: return Kind::kBools;
    default: return Kind::kUnsupported;
  }
}

Kind kind_of(const c10::Type& type) {
  switch (type.kind()) {
    case TypeKind::TensorType: return Kind::kTensor;
    case TypeKind::NumberType: return Kind::kScalar;
    case TypeKind::IntType:
    case TypeKind::SymIntType: return Kind::kInt;
    case TypeKind::FloatType: return Kind::kFloat;
    case TypeKind::BoolType: return Kind::kBool;
    case TypeKind::StringType: return Kind::kString;
    case TypeKind::ScalarTypeType: return Kind::kDtype;
    case TypeKind::LayoutType: return Kind::kLayout;
    case TypeKind::MemoryFormatType: return Kind::kMemoryFormat;
    case TypeKind::DeviceObjType: return Kind::kDevice;
    case TypeKind::GeneratorType: return Kind::kGenerator;
    case TypeKind::ListType: return kind_of_list(*type.castRaw<c10::ListType>()->getElementType());
    default: return Kind::kUnsupported;
  }
}

Parameter parameter_of(const c10::Argument& argument, const std::vector<std::string>& nullable) {
  c10::TypePtr type = argument.real_type();
  const bool optional = type->kind() == TypeKind::OptionalType;
  if (optional) type = type->castRaw<c10::OptionalType>()->getElementType();
  const bool is_nullable = std::find(nullable.begin(), nullable.end(), argument.name()) != nullable.end();
  return {argument.name(), kind_of(*type),           optional,
          is_nullable,     argument.N().value_or(0), argument.default_value()};
}

Operation& operation_of(napi_env env, napi_value id) {
  const int64_t index = to_int(env, id, "id");
  TORCH_CHECK(
      index >= 0 && index < static_cast<int64_t>(operations().size()), "no operator has the id ", index);
  return operations()[index];
}

IValue to_scalar(napi_env env, napi_value value, const char* name) {
  if (type_of(env, value) == napi_boolean) return IValue(to_bool(env, value, name));
  if (type_of(env, value) == napi_bigint) return IValue(to_int(env, value, name));
  if (type_of(env, value) != napi_number) reject(env, value, name, "a number or a boolean");
  const double number = to_double(env, value, name);
  const bool whole = number == std::trunc(number) && std::abs(number) <= 9007199254740992.0;
  return whole && !(number == 0 && std::signbit(number)) ? IValue(static_cast<int64_t>(number))
                                                         : IValue(number);
}

IValue to_int_list(napi_env env, napi_value value, const Parameter& parameter) {
  if (parameter.repeats > 0 && type_of(env, value) == napi_number) {
    return IValue(std::vector<int64_t>(parameter.repeats, to_int(env, value, parameter.name.c_str())));
  }
  return IValue(to_ints(env, value, parameter.name.c_str()));
}

IValue to_float_list(napi_env env, napi_value value, const char* name) {
  std::vector<double> numbers(array_length(env, value, name));
  for (uint32_t i = 0; i < numbers.size(); ++i) numbers[i] = to_double(env, element(env, value, i), name);
  return IValue(std::move(numbers));
}

IValue to_bool_list(napi_env env, napi_value value, const Parameter& parameter) {
  const char* name = parameter.name.c_str();
  const uint32_t length = array_length(env, value, name);
  if (parameter.repeats > 0 && static_cast<int32_t>(length) != parameter.repeats) {
    throw ArgumentError(
        "argument \"" + parameter.name + "\" must have " + std::to_string(parameter.repeats) +
        " booleans, got " + std::to_string(length));
  }
  c10::List<bool> flags;
  for (uint32_t i = 0; i < length; ++i) flags.push_back(to_bool(env, element(env, value, i), name));
  return IValue(std::move(flags));
}

IValue to_tensor_list(napi_env env, napi_value value, const char* name) {
  const uint32_t length = array_length(env, value, name);
  c10::List<at::Tensor> list;
  list.reserve(length);
  for (uint32_t i = 0; i < length; ++i) list.push_back(to_tensor(env, element(env, value, i), name));
  return IValue(std::move(list));
}

IValue to_optional_tensor_list(napi_env env, napi_value value, const char* name) {
  const uint32_t length = array_length(env, value, name);
  c10::List<std::optional<at::Tensor>> list;
  for (uint32_t i = 0; i < length; ++i) {
    napi_value item = element(env, value, i);
    const bool none = type_of(env, item) == napi_null;
    list.push_back(none ? std::nullopt : std::optional(to_tensor(env, item, name)));
  }
  return IValue(std::move(list));
}

IValue to_memory_format(napi_env env, napi_value value, const char* name) {
  const std::string format = to_string(env, value, name);
  if (format == "contiguous") return IValue(static_cast<int64_t>(c10::MemoryFormat::Contiguous));
  if (format == "preserve") return IValue(static_cast<int64_t>(c10::MemoryFormat::Preserve));
  if (format == "channels_last") return IValue(static_cast<int64_t>(c10::MemoryFormat::ChannelsLast));
  reject(env, value, name, "\"contiguous\", \"preserve\" or \"channels_last\"");
}

IValue to_layout(napi_env env, napi_value value, const char* name) {
  if (to_string(env, value, name) != "strided") reject(env, value, name, "\"strided\"");
  return IValue(static_cast<int64_t>(c10::Layout::Strided));
}

/** Converts a value to the type that the schema requires. */
IValue convert(napi_env env, napi_value value, const Parameter& parameter) {
  const char* name = parameter.name.c_str();
  switch (parameter.kind) {
    case Kind::kTensor: return IValue(to_tensor(env, value, name));
    case Kind::kTensors: return to_tensor_list(env, value, name);
    case Kind::kOptionalTensors: return to_optional_tensor_list(env, value, name);
    case Kind::kScalar: return to_scalar(env, value, name);
    case Kind::kInt: return IValue(to_int(env, value, name));
    case Kind::kInts: return to_int_list(env, value, parameter);
    case Kind::kFloat: return IValue(to_double(env, value, name));
    case Kind::kFloats: return to_float_list(env, value, name);
    case Kind::kBool: return IValue(to_bool(env, value, name));
    case Kind::kBools: return to_bool_list(env, value, parameter);
    case Kind::kString: return IValue(to_string(env, value, name));
    case Kind::kDtype: return IValue(static_cast<int64_t>(to_dtype(env, value, name)));
    case Kind::kLayout: return to_layout(env, value, name);
    case Kind::kMemoryFormat: return to_memory_format(env, value, name);
    case Kind::kDevice: return IValue(to_device(env, value, name));
    case Kind::kGenerator: return IValue(to_generator(env, value, name));
    case Kind::kUnsupported: break;
  }
  reject(env, value, parameter.name, "left out (its type has no JavaScript form)");
}

IValue convert_or_default(napi_env env, napi_value value, const Parameter& parameter) {
  const napi_valuetype type = type_of(env, value);
  if (type == napi_undefined && parameter.fallback) return *parameter.fallback;
  if (type == napi_undefined && parameter.optional) return IValue();
  if (type == napi_null && parameter.optional) return IValue();
  if (type == napi_null && parameter.nullable) return IValue(at::Tensor());
  return convert(env, value, parameter);
}

napi_value from_ivalue(napi_env env, const IValue& value) {
  if (value.isTensor()) return from_tensor(env, value.toTensor());
  if (value.isInt()) return from_double(env, static_cast<double>(value.toInt()));
  if (value.isSymInt()) return from_double(env, static_cast<double>(value.toSymInt().expect_int()));
  if (value.isDouble()) return from_double(env, value.toDouble());
  if (value.isBool()) return from_bool(env, value.toBool());
  if (value.isScalar()) return from_double(env, value.toScalar().toDouble());
  if (value.isTensorList()) return from_tensors(env, value.toTensorVector());
  if (value.isIntList()) return from_ints(env, value.toIntVector());
  TORCH_CHECK(value.isNone(), "a result of type ", value.tagKind(), " has no JavaScript form");
  return null_value(env);
}

/**
 * Returns " (self: float32[2, 3] cpu, other: ...)": the tensors among the arguments of a call that failed.
 */
std::string describe_tensors(const Arguments& arguments, const Operation& operation) {
  std::string text;
  const auto add = [&](const std::string& name, napi_value value) {
    double handle;
    if (napi_get_value_double(arguments.env, value, &handle) != napi_ok) return;
    if (const at::Tensor* tensor = tensors().find(handle))
      text += (text.empty() ? "" : ", ") + name + ": " + describe(*tensor);
  };
  for (size_t i = 0; i < operation.parameters.size(); ++i) {
    const Parameter& parameter = operation.parameters[i];
    napi_value value = arguments[i + 1];
    uint32_t length = 0;
    if (parameter.kind == Kind::kTensor) add(parameter.name, value);
    if (parameter.kind != Kind::kTensors && parameter.kind != Kind::kOptionalTensors) continue;
    if (napi_get_array_length(arguments.env, value, &length) != napi_ok) continue;
    for (uint32_t item = 0; item < length && item < 4; ++item) {
      add(parameter.name + "[" + std::to_string(item) + "]", element(arguments.env, value, item));
    }
  }
  return text.empty() ? "" : " (" + text + ")";
}

/**
 * The stack of values that a boxed call reads and writes. It is kept between calls to reuse its memory, and
 * emptied after each.
 */
class Stack {
 public:
  Stack() : values(reused()) {}
  ~Stack() { values.clear(); }
  std::vector<IValue>& values;

 private:
  static std::vector<IValue>& reused() {
    static auto* stack = new std::vector<IValue>;
    return *stack;
  }
};

bool returns_arguments(const c10::FunctionSchema& schema) {
  const auto& returns = schema.returns();
  return !returns.empty() && std::all_of(returns.begin(), returns.end(), [](const c10::Argument& result) {
    return result.alias_info() && result.alias_info()->isWrite();
  });
}

/**
 * Switches oneDNN on again. If a batched product is refused memory, ATen computes it without oneDNN, and
 * switches oneDNN off for good.
 */
void keep_onednn() {
  if (!at::globalContext().userEnabledMkldnn()) at::globalContext().setUserEnabledMkldnn(true);
}

napi_value results(napi_env env, const std::vector<IValue>& values) {
  if (values.empty()) return undefined_value(env);
  if (values.size() == 1) return from_ivalue(env, values[0]);
  napi_value array = new_array(env, values.size());
  for (size_t i = 0; i < values.size(); ++i) set_element(env, array, i, from_ivalue(env, values[i]));
  return array;
}

} // namespace

napi_value resolve_operator(const Arguments& arguments) {
  napi_env env = arguments.env;
  const std::string name = to_string(env, arguments[0], "name");
  const std::string overload = to_string(env, arguments[1], "overload");
  std::vector<std::string> nullable(array_length(env, arguments[2], "nullable"));
  for (uint32_t i = 0; i < nullable.size(); ++i)
    nullable[i] = to_string(env, element(env, arguments[2], i), "nullable");

  auto handle = c10::Dispatcher::singleton().findSchemaOrThrow(name.c_str(), overload.c_str());
  std::vector<Parameter> parameters;
  for (const c10::Argument& argument : handle.schema().arguments())
    parameters.push_back(parameter_of(argument, nullable));
  TORCH_CHECK(parameters.size() < Arguments::kMost, name, " has more arguments than can be passed");
  operations().push_back(
      {handle, overload.empty() ? name : name + "." + overload, std::move(parameters),
       returns_arguments(handle.schema()), overload.empty() ? stand_in_for(name) : nullptr});
  return from_double(env, static_cast<double>(operations().size() - 1));
}

napi_value operator_schema(const Arguments& arguments) {
  return from_string(arguments.env, toString(operation_of(arguments.env, arguments[0]).handle.schema()));
}

napi_value call_operator(const Arguments& arguments) {
  napi_env env = arguments.env;
  Operation& operation = operation_of(env, arguments[0]);
  const size_t given = arguments.count - 1;
  try {
    if (given > operation.parameters.size()) {
      throw ArgumentError(
          "takes at most " + std::to_string(operation.parameters.size()) + " arguments, got " +
          std::to_string(given));
    }
    Stack stack;
    for (size_t i = 0; i < operation.parameters.size(); ++i) {
      stack.values.push_back(convert_or_default(env, arguments[i + 1], operation.parameters[i]));
    }
    std::optional<TracedCall> traced;
    if (TracedCall::tracing()) traced.emplace(arguments, operation.handle.schema(), stack.values);
    const Called called(operation.stand_in);
    if (!operation.stand_in || !operation.stand_in(stack.values)) operation.handle.callBoxed(stack.values);
    keep_onednn();
    if (traced) traced->finish(stack.values);
    return operation.in_place ? undefined_value(env) : results(env, stack.values);
  } catch (const ArgumentError& error) {
    throw OperatorError(operation.name + ": " + error.what());
  } catch (const OutOfPool&) {
    throw;
  } catch (const c10::OutOfMemoryError&) {
    throw;
  } catch (const c10::Error& error) {
    throw std::runtime_error(
        operation.name + ": " + first_line(error.what_without_backtrace()) +
        describe_tensors(arguments, operation));
  } catch (const std::exception& error) {
    throw std::runtime_error(
        operation.name + ": " + first_line(error.what()) + describe_tensors(arguments, operation));
  }
}

} // namespace lorafit
