// Reads a launch from stdin, runs it, and writes the buffers to stdout. The program's argument names the
// kernel. Every number has 64 bits. The launch begins with the number of blocks and the number of arguments.
// Each argument is its kind, then: for 't' its bytes and the data; for 'a' (inside another argument's buffer)
// that argument and an offset in bytes; for 'i' and 'f' the value.
template <typename... Parameters>
void on_all_threads(void (*kernel)(Parameters...), int64_t blocks, void** addresses) {
  static const auto call = [=]<size_t... I>(std::index_sequence<I...>) {
    kernel(*static_cast<Parameters*>(addresses[I])...);
  };
#ifdef BY_TURNS
  Turns::all().body = [] { call(std::index_sequence_for<Parameters...>{}); };
  for (int64_t block = 0; block < blocks; ++block) {
    blockIdx.x = block;
    Turns::all().run();
  }
#else
  std::vector<std::thread> threads;
  for (unsigned number = 0; number < blockDim.x; ++number) {
    threads.emplace_back([&, number] {
      threadIdx.x = number;
      for (int64_t block = 0; block < blocks; ++block) {
        blockIdx.x = block;
        call(std::index_sequence_for<Parameters...>{});
        __syncthreads();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
#endif
}

template <typename T>
T next() {
  T value;
  if (std::fread(&value, sizeof(value), 1, stdin) != 1) std::exit(2);
  return value;
}

template <typename... Parameters>
int run(void (*kernel)(Parameters...)) {
  const int64_t blocks = next<int64_t>(), count = next<int64_t>();
  if (count != sizeof...(Parameters)) return 3;
  struct Argument {
    std::vector<char> data;
    void* pointer;
    int64_t whole;
    float number;
  };
  std::vector<Argument> arguments(count);
  std::vector<void*> addresses;
  for (Argument& argument : arguments) {
    switch (const int64_t kind = next<int64_t>()) {
      case 't':
        argument.data.resize(next<int64_t>());
        if (!argument.data.empty() && std::fread(argument.data.data(), argument.data.size(), 1, stdin) != 1) return 2;
        argument.pointer = argument.data.data();
        addresses.push_back(&argument.pointer);
        break;
      case 'a': {
        char* start = arguments[next<int64_t>()].data.data();
        argument.pointer = start + next<int64_t>();
        addresses.push_back(&argument.pointer);
        break;
      }
      case 'i':
        argument.whole = next<int64_t>();
        addresses.push_back(&argument.whole);
        break;
      default:
        argument.number = static_cast<float>(next<double>());
        addresses.push_back(&argument.number);
    }
  }
  on_all_threads(kernel, blocks, addresses.data());
  for (const Argument& argument : arguments) {
    if (!argument.data.empty()) std::fwrite(argument.data.data(), argument.data.size(), 1, stdout);
  }
  return 0;
}
