// A libnccl that moves nothing: it writes down each call, and reports an error where a test asks for one.
// FAKE_NCCL_LOG: file of the calls, with ".RANK" appended. FAKE_NCCL_ERROR: rank that sees an error of a peer
// once a sum was started.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
  char bytes[128];
} Id;

static int sums;

static const char *own_rank(void) { return getenv("RANK") ? getenv("RANK") : "0"; }

#define WRITE(...)                                                        \
  do {                                                                    \
    char path[4096];                                                      \
    snprintf(path, sizeof path, "%s.%s", getenv("FAKE_NCCL_LOG"), own_rank()); \
    FILE *file = fopen(path, "a");                                        \
    fprintf(file, __VA_ARGS__);                                           \
    fclose(file);                                                         \
  } while (0)

// Which stream it is: the first one that is seen is 1; the default stream is 0.
static int stream_number(void *stream) {
  static void *seen[16];
  static int count;
  if (!stream) return 0;
  for (int at = 0; at < count; ++at)
    if (seen[at] == stream) return at + 1;
  seen[count++] = stream;
  return count;
}

int ncclGetUniqueId(Id *id) {
  memset(id, 7, sizeof *id);
  WRITE("id\n");
  return 0;
}
int ncclCommInitRank(void **comm, int count, Id id, int rank) {
  *comm = malloc(1);
  WRITE("join %d of %d by id %d %d\n", rank, count, id.bytes[0], id.bytes[127]);
  return 0;
}
int ncclCommGetAsyncError(void *comm, int *error) {
  const char *who = getenv("FAKE_NCCL_ERROR");
  *error = who && sums > 0 && strcmp(who, own_rank()) == 0 ? 6 : 0;
  return 0;
}
int ncclCommAbort(void *comm) {
  WRITE("abort\n");
  return 0;
}
int ncclCommDestroy(void *comm) {
  WRITE("destroy\n");
  return 0;
}
const char *ncclGetErrorString(int error) { return error == 6 ? "a peer has exited" : "an error"; }
const char *ncclGetLastError(void *comm) { return "the last words"; }
int ncclAllReduce(const void *from, void *to, size_t n, int type, int op, void *comm, void *stream) {
  ++sums;
  WRITE("sum %zu of type %d, op %d, in place %d, stream %d\n", n, type, op, from == to, stream_number(stream));
  return 0;
}
int ncclAllGather(const void *from, void *to, size_t n, int type, void *comm, void *stream) {
  WRITE("gather %zu of type %d, stream %d\n", n, type, stream_number(stream));
  return 0;
}
int ncclBroadcast(const void *from, void *to, size_t n, int type, int root, void *comm, void *stream) {
  WRITE("broadcast %zu of type %d from %d, stream %d\n", n, type, root, stream_number(stream));
  return 0;
}
int ncclSend(const void *from, size_t n, int type, int peer, void *comm, void *stream) {
  WRITE("send %zu of type %d to %d, stream %d\n", n, type, peer, stream_number(stream));
  return 0;
}
int ncclRecv(void *to, size_t n, int type, int peer, void *comm, void *stream) {
  WRITE("receive %zu of type %d from %d, stream %d\n", n, type, peer, stream_number(stream));
  return 0;
}
int ncclGroupStart(void) {
  WRITE("group\n");
  return 0;
}
int ncclGroupEnd(void) {
  WRITE("end of group\n");
  return 0;
}
