/* The actor in C++ for other languages. See rl_hotswap.hpp for what each call does.
 *
 * No exception leaves these functions. One that returns anything but RLHS_OK has left a message of one line for
 * rlhs_last_error() on the same thread. `act` and `adopt` of one agent belong to one thread. */
#ifndef RL_HOTSWAP_H
#define RL_HOTSWAP_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define RLHS_API __attribute__((visibility("default")))
#define RLHS_DIGEST_LENGTH 64

typedef struct rlhs_agent rlhs_agent;

typedef enum rlhs_status {
  RLHS_OK = 0,
  RLHS_BAD_INPUT = 1,     /* an argument is invalid */
  RLHS_NOT_READY = 2,     /* no version acts, or none became ready in time */
  RLHS_POLICY_FAILED = 3, /* the acting version failed, and there is no earlier one */
  RLHS_FAILED = 4         /* no memory, no threads, or another failure of the system */
} rlhs_status;

typedef enum rlhs_side { RLHS_INPUT = 0, RLHS_OUTPUT = 1 } rlhs_side;

typedef struct rlhs_options {
  size_t struct_size; /* sizeof(rlhs_options) of the caller */
  const char* const* public_keys;
  size_t public_key_count;
  const char* run_id; /* NULL: any */
  int trust_programs; /* 0: pure operators only */
  double poll_s;      /* 0: the default */
  /* Called on the agent's thread with a line that is valid during the call. NULL: no log. */
  void (*log)(void* context, const char* line);
  void* log_context;
} rlhs_options;

/* Valid until the agent is closed. The first size is -1: the number of rows. */
typedef struct rlhs_tensor {
  const char* name;
  const char* dtype;
  const int64_t* shape;
  size_t dimensions;
  size_t row_bytes;
} rlhs_tensor;

typedef struct rlhs_input {
  const void* data;
  size_t bytes;
} rlhs_input;

typedef struct rlhs_output {
  void* data;
  size_t bytes;
} rlhs_output;

typedef struct rlhs_counts {
  uint64_t adopted;
  uint64_t refused;
  uint64_t failed;
} rlhs_counts;

/* The message of the last call on this thread that failed; "" if none did. */
RLHS_API const char* rlhs_last_error(void);

/* `options` may be NULL. The agent has to be closed. */
RLHS_API rlhs_status rlhs_agent_open(const char* store, const rlhs_options* options, rlhs_agent** agent);
/* NULL is allowed. */
RLHS_API void rlhs_agent_close(rlhs_agent* agent);

RLHS_API rlhs_status rlhs_agent_wait(const rlhs_agent* agent, double timeout_s);
/* Sets `adopted` to 1 if another version acts now, else to 0. It may be NULL. */
RLHS_API rlhs_status rlhs_agent_adopt(rlhs_agent* agent, int* adopted);
/* `version` receives the number of the version that computed the outputs. It may be NULL. */
RLHS_API rlhs_status rlhs_agent_act(rlhs_agent* agent, int64_t rows, const rlhs_input* inputs, size_t input_count,
                                    const rlhs_output* outputs, size_t output_count, int64_t* version);

/* Either may be NULL. `digest` receives 64 characters and a zero. */
RLHS_API rlhs_status rlhs_agent_version(const rlhs_agent* agent, int64_t* version, char digest[RLHS_DIGEST_LENGTH + 1]);
RLHS_API rlhs_status rlhs_agent_tensor_count(const rlhs_agent* agent, rlhs_side side, size_t* count);
RLHS_API rlhs_status rlhs_agent_tensor(const rlhs_agent* agent, rlhs_side side, size_t index, rlhs_tensor* tensor);
RLHS_API rlhs_status rlhs_agent_counts(const rlhs_agent* agent, rlhs_counts* counts);

RLHS_API rlhs_status rlhs_set_threads(int threads);

#ifdef __cplusplus
}
#endif

#endif
