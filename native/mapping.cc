#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/util/safe_numerics.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "handles.h"
#include "tensors.h"

namespace lorafit {
namespace {

class FileDescriptor {
 public:
  explicit FileDescriptor(const std::string& path) : number(open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    TORCH_CHECK(number >= 0, path, ": ", std::strerror(errno));
  }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  ~FileDescriptor() { close(number); }
  const int number;
};

/**
 * A whole file mapped into memory. Pages are private: an operator that writes in place changes memory, never
 * the file.
 */
class Mapping {
 public:
  explicit Mapping(const std::string& path) {
    const FileDescriptor file(path);
    struct stat status;
    TORCH_CHECK(fstat(file.number, &status) == 0, path, ": ", std::strerror(errno));
    TORCH_CHECK(S_ISREG(status.st_mode), path, ": not a regular file");
    length = static_cast<size_t>(status.st_size);
    if (length == 0) return;
    void* start = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, file.number, 0);
    TORCH_CHECK(start != MAP_FAILED, path, ": ", std::strerror(errno));
    data = static_cast<uint8_t*>(start);
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() {
    if (data) munmap(data, length);
  }

  uint8_t* data = nullptr;
  size_t length = 0;
};

SlotTable<std::shared_ptr<Mapping>>& mappings() {
  static auto* table = new SlotTable<std::shared_ptr<Mapping>>;
  return *table;
}

const std::shared_ptr<Mapping>& to_mapping(napi_env env, napi_value id) {
  const auto* mapping = mappings().find(to_double(env, id, "mapping"));
  TORCH_CHECK(mapping, "the mapped file is closed");
  return *mapping;
}

/** Returns the start of a range inside the mapping; throws if the range is outside. */
uint8_t* range(const Mapping& mapping, int64_t offset_bytes, uint64_t length_bytes) {
  const bool inside = offset_bytes >= 0 && static_cast<uint64_t>(offset_bytes) <= mapping.length &&
                      length_bytes <= mapping.length - static_cast<uint64_t>(offset_bytes);
  TORCH_CHECK(
      inside, length_bytes, " bytes at ", offset_bytes, " are outside of a file of ", mapping.length,
      " bytes");
  return mapping.data + offset_bytes;
}

uint64_t bytes_of(const std::vector<int64_t>& shape, at::ScalarType dtype) {
  uint64_t bytes = c10::elementSize(dtype);
  for (const int64_t size : shape) {
    TORCH_CHECK(
        size >= 0 && !c10::mul_overflows(bytes, static_cast<uint64_t>(size), &bytes), "impossible shape ",
        at::IntArrayRef(shape));
  }
  return bytes;
}

} // namespace

napi_value map_file(const Arguments& arguments) {
  auto mapping = std::make_shared<Mapping>(to_string(arguments.env, arguments[0], "path"));
  return from_double(arguments.env, mappings().insert(std::move(mapping)));
}

napi_value mapped_length(const Arguments& arguments) {
  return from_double(arguments.env, static_cast<double>(to_mapping(arguments.env, arguments[0])->length));
}

napi_value mapped_bytes(const Arguments& arguments) {
  const Mapping& mapping = *to_mapping(arguments.env, arguments[0]);
  const int64_t offset_bytes = to_int(arguments.env, arguments[1], "offset");
  const int64_t length_bytes = to_int(arguments.env, arguments[2], "length");
  TORCH_CHECK(length_bytes >= 0, "a length of ", length_bytes, " bytes");
  return from_bytes(arguments.env, range(mapping, offset_bytes, length_bytes), length_bytes);
}

napi_value mapped_tensor(const Arguments& arguments) {
  napi_env env = arguments.env;
  const std::shared_ptr<Mapping>& mapping = to_mapping(env, arguments[0]);
  const int64_t offset_bytes = to_int(env, arguments[1], "offset");
  const at::ScalarType dtype = to_dtype(env, arguments[2], "dtype");
  const std::vector<int64_t> shape = to_ints(env, arguments[3], "shape");
  const uint64_t length_bytes = bytes_of(shape, dtype);
  uint8_t* start = range(*mapping, offset_bytes, length_bytes);
  const auto options = at::TensorOptions().dtype(dtype);
  if (reinterpret_cast<uintptr_t>(start) % c10::elementSize(dtype) == 0 && length_bytes > 0) {
    return from_tensor(env, at::from_blob(start, shape, [mapping](void*) {}, options));
  }
  at::Tensor copy =
      at::empty(shape, options); // kernels must not read misaligned elements
  if (length_bytes > 0) std::memcpy(copy.mutable_data_ptr(), start, length_bytes);
  return from_tensor(env, std::move(copy));
}

napi_value unmap_file(const Arguments& arguments) {
  return from_bool(arguments.env, mappings().erase(to_double(arguments.env, arguments[0], "mapping")));
}

} // namespace lorafit
