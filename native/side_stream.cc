#include "side_stream.h"

#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <map>

namespace lorafit {
namespace {

/** The side stream of a card. */
struct Side {
  c10::Stream stream;
  std::optional<c10::Stream> computing; // while the side stream is current
  std::optional<c10::Event> done;       // after what was queued last
};

/** For the JavaScript thread. */
Side& side_of(const c10::impl::VirtualGuardImpl& impl, c10::Device card) {
  static auto* sides = new std::map<c10::DeviceIndex, Side>;
  const auto found = sides->find(card.index());
  if (found != sides->end()) return found->second;
  return sides->emplace(card.index(), Side{impl.getStreamFromGlobalPool(card), {}, {}}).first->second;
}

c10::Event mark_of(const c10::Stream& stream) {
  c10::Event event(stream.device_type());
  event.record(stream);
  return event;
}

} // namespace

napi_value side_stream(const Arguments& arguments) {
  napi_env env = arguments.env;
  const c10::Device card = to_device(env, arguments[0], "device");
  const c10::impl::VirtualGuardImpl impl(card.type());
  Side& side = side_of(impl, card);
  switch (to_int(env, arguments[1], "call")) {
    case 0:
      TORCH_CHECK(!side.computing, "the side stream is current already");
      mark_of(impl.getStream(card)).block(side.stream);
      side.computing = impl.exchangeStream(side.stream);
      break;
    case 1:
      TORCH_CHECK(side.computing, "the side stream is not current");
      side.done.emplace(mark_of(side.stream));
      impl.exchangeStream(*side.computing);
      side.computing.reset();
      break;
    default:
      if (side.done) side.done->block(impl.getStream(card));
  }
  return undefined_value(env);
}

} // namespace lorafit
