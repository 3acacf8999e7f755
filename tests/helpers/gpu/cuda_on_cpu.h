// Runs CUDA sources on the CPU, to prove them where there is no GPU: grids, blocks, shared memory,
// barriers, warp collectives and cooperative launches. A thread is a fibre that runs until it has to
// wait, and the order in which fibres run is the caller's: forwards, backwards, random, or a block as
// far as it gets before the others. What a missing barrier lets through, one of the orders shows,
// since memory starts as NaN. A collective whose mask does not name exactly those who come, and
// threads that wait for ever, end the launch with a message.
#pragma once
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <random>
#include <tuple>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __grid_constant__
#define __align__(n) alignas(n)
#define __launch_bounds__(...)
#define __noinline__ __attribute__((noinline))
using std::max;
using std::min;

namespace on_cpu {

struct dim3 {
  unsigned x, y, z;
};
enum State { READY, AT_BARRIER, AT_WARP, DONE };
enum Collective { SYNC, SHUFFLE, XOR, BALLOT };
constexpr size_t STACK = 96 * 1024, CANARY = 64;
constexpr unsigned char POISON = 0xff;  // NaN in every precision, −1 as an integer

struct Fibre {
  ucontext_t start;
  jmp_buf at;
  std::vector<char> stack;
  bool begun, spun;
  State state;
  dim3 thread, block_index;
  int number, block;  // within the block; of the block among those that run at once
  unsigned char* shared;
  // what it brought to a collective, and what it takes away
  Collective kind;
  unsigned mask;
  int source;
  uint64_t value, result;
};

struct Launch {
  dim3 grid, block;
  size_t shared;
  int order;
  std::mt19937 random;
  std::vector<Fibre*> fibres;
  std::vector<std::vector<unsigned char>> memory;
  std::function<void()> body;
  char error[400];
  long idle;
};

inline Launch* launch;
inline Fibre* current;
inline jmp_buf scheduler;

inline void fail(const char* text, ...) {
  if (launch->error[0]) return;
  va_list list;
  va_start(list, text);
  vsnprintf(launch->error, sizeof launch->error, text, list);
  va_end(list);
}

inline void pause() {
  if (_setjmp(current->at) == 0) _longjmp(scheduler, 1);
}

inline void enter() {
  launch->body();
  current->state = DONE;
  launch->idle = 0;
  _longjmp(scheduler, 1);
}

inline void resume(Fibre* fibre) {
  current = fibre;
  fibre->spun = false;
  if (_setjmp(scheduler)) return;
  if (fibre->begun) _longjmp(fibre->at, 1);
  fibre->begun = true;
  getcontext(&fibre->start);
  fibre->start.uc_stack.ss_sp = fibre->stack.data();
  fibre->start.uc_stack.ss_size = fibre->stack.size();
  fibre->start.uc_link = nullptr;
  makecontext(&fibre->start, enter, 0);
  setcontext(&fibre->start);
}

inline void barrier() {
  current->state = AT_BARRIER;
  pause();
}

inline void spin() {
  launch->idle += 1;
  current->spun = true;
  if (launch->idle > 2000000) fail("threads spin for ever");
  pause();
}

inline uint64_t collective(Collective kind, unsigned mask, uint64_t value, int source) {
  const int lane = current->number % 32;
  if (!(mask >> lane & 1)) fail("lane %d is not in the mask %08x that it gives", lane, mask);
  current->kind = kind;
  current->mask = mask;
  current->value = value;
  current->source = source;
  current->state = AT_WARP;
  pause();
  return current->result;
}

// Lets the fibres of one warp go that have all come to the same collective.
inline bool meet_in_warp(Fibre** warp, int lanes) {
  bool moved = false;
  for (int first = 0; first < lanes; ++first) {
    if (warp[first]->state != AT_WARP) continue;
    const unsigned mask = warp[first]->mask;
    const Collective kind = warp[first]->kind;
    bool all = true;
    for (int i = 0; i < 32; ++i) {
      if (!(mask >> i & 1)) continue;
      if (i >= lanes) {
        if (kind != SYNC) fail("the mask %08x names lane %d, which does not exist", mask, i);
        continue;
      }
      if (warp[i]->state == DONE) {
        if (kind != SYNC) fail("lane %d of the mask %08x has ended", i, mask);
        continue;
      }
      const bool here = warp[i]->state == AT_WARP && warp[i]->mask == mask && warp[i]->kind == kind;
      all = all && here;
    }
    if (!all) continue;
    uint64_t ballot = 0;
    for (int i = 0; i < lanes; ++i)
      if (mask >> i & 1 && warp[i]->state == AT_WARP && warp[i]->value) ballot |= 1ull << i;
    for (int i = 0; i < lanes; ++i) {
      if (!(mask >> i & 1) || warp[i]->state != AT_WARP) continue;
      const int from = kind == XOR ? i ^ warp[i]->source : warp[i]->source;
      const bool known = from >= 0 && from < lanes && mask >> from & 1;
      if ((kind == XOR || kind == SHUFFLE) && !known)
        fail("lane %d asks lane %d, which is not in the mask %08x", i, from, mask);
      warp[i]->result = kind == BALLOT ? ballot : kind == SYNC || !known ? 0 : warp[from]->value;
    }
    for (int i = 0; i < lanes; ++i)
      if (mask >> i & 1 && warp[i]->state == AT_WARP) warp[i]->state = READY;
    moved = true;
  }
  return moved;
}

// Lets go whoever need not wait any longer.
inline bool release(const std::vector<Fibre*>& fibres, int threads) {
  bool moved = false;
  for (size_t b = 0; b < fibres.size(); b += threads) {
    int waiting = 0, running = 0;
    for (int i = 0; i < threads; ++i) {
      waiting += fibres[b + i]->state == AT_BARRIER;
      running += fibres[b + i]->state != DONE;
    }
    if (waiting && waiting == running) {
      for (int i = 0; i < threads; ++i)
        if (fibres[b + i]->state == AT_BARRIER) fibres[b + i]->state = READY;
      moved = true;
    }
    for (int w = 0; w < threads; w += 32) {
      Fibre* warp[32];
      const int lanes = std::min(32, threads - w);
      for (int i = 0; i < lanes; ++i) warp[i] = fibres[b + w + i];
      moved = meet_in_warp(warp, lanes) || moved;
    }
  }
  return moved;
}

// Runs a block's threads as far as they get while no other block does anything.
inline void rush(Fibre** block, int threads) {
  const std::vector<Fibre*> own(block, block + threads);
  for (bool moved = true; moved && !launch->error[0];) {
    moved = false;
    for (Fibre* f : own) {
      if (f->state != READY) continue;
      resume(f);
      moved = moved || !f->spun;
    }
    moved = release(own, threads) || moved;
  }
}

// Blocks first … last − 1, which run at the same time.
inline void run_blocks(int first, int last) {
  const int threads = launch->block.x * launch->block.y * launch->block.z;
  static std::vector<Fibre*> pool;
  while (int(pool.size()) < (last - first) * threads) {
    pool.push_back(new Fibre);
    pool.back()->stack.resize(STACK);
  }
  launch->fibres.assign(pool.begin(), pool.begin() + (last - first) * threads);
  launch->memory.assign(last - first, {});
  for (int b = 0; b < last - first; ++b) {
    launch->memory[b].assign(launch->shared + CANARY + 16, POISON);
    unsigned char* start = launch->memory[b].data();
    start += (16 - reinterpret_cast<uintptr_t>(start) % 16) % 16;
    for (int t = 0; t < threads; ++t) {
      Fibre& f = *launch->fibres[b * threads + t];
      f.begun = false;
      f.state = READY;
      const unsigned n = t, x = launch->block.x, y = launch->block.y, g = first + b;
      f.thread = {n % x, n / x % y, n / (x * y)};
      f.block_index = {g % launch->grid.x, g / launch->grid.x % launch->grid.y,
                       g / (launch->grid.x * launch->grid.y)};
      f.number = t;
      f.block = b;
      f.shared = start;
    }
  }
  std::vector<Fibre*> order = launch->fibres;
  if (launch->order == 1) std::reverse(order.begin(), order.end());
  while (!launch->error[0]) {
    if (launch->order == 3)
      for (int b = last - first - 1; b >= 0; --b) rush(&launch->fibres[b * threads], threads);
    if (launch->order > 1) std::shuffle(order.begin(), order.end(), launch->random);
    bool ran = false, all_done = true;
    for (Fibre* f : order) {
      if (f->state == READY) {
        resume(f);
        ran = true;
      }
      all_done = all_done && f->state == DONE;
    }
    if (all_done) break;
    if (release(launch->fibres, threads)) launch->idle = 0;
    else if (!ran) fail("threads wait for ever: a barrier or collective that not all come to");
  }
  for (auto& memory : launch->memory) {
    unsigned char* start = memory.data();
    start += (16 - reinterpret_cast<uintptr_t>(start) % 16) % 16 + launch->shared;
    for (size_t i = 0; start + i < memory.data() + memory.size(); ++i)
      if (start[i] != POISON) fail("written beyond the %zu bytes of shared memory", launch->shared);
  }
}

inline int run(const int* grid, const int* block, size_t shared, int order, unsigned seed,
               int cooperative, std::function<void()> body, char* message, size_t room) {
  Launch here{};
  here.grid = {unsigned(grid[0]), unsigned(grid[1]), unsigned(grid[2])};
  here.block = {unsigned(block[0]), unsigned(block[1]), unsigned(block[2])};
  here.shared = shared;
  here.order = order;
  here.random.seed(seed);
  here.body = std::move(body);
  launch = &here;
  const int blocks = grid[0] * grid[1] * grid[2];
  if (cooperative) run_blocks(0, blocks);
  else
    for (int n = 0; n < blocks && !here.error[0]; ++n) {
      const int b = order == 1 ? blocks - 1 - n : n;
      run_blocks(b, b + 1);
    }
  snprintf(message, room, "%s", here.error);
  launch = nullptr;
  return here.error[0] != 0;
}

template <class... A, size_t... I>
void apply(void (*kernel)(A...), void** args, std::index_sequence<I...>) {
  kernel(*reinterpret_cast<std::remove_const_t<std::remove_reference_t<A>>*>(args[I])...);
}
template <class... A>
void call(void (*kernel)(A...), void** args) {
  apply(kernel, args, std::index_sequence_for<A...>{});
}

template <class T>
uint64_t bits(T x) {
  uint64_t b = 0;
  memcpy(&b, &x, sizeof x);
  return b;
}
template <class T>
T of_bits(uint64_t b) {
  T x;
  memcpy(&x, &b, sizeof x);
  return x;
}

}  // namespace on_cpu

#define threadIdx (on_cpu::current->thread)
#define blockIdx (on_cpu::current->block_index)
#define blockDim (on_cpu::launch->block)
#define gridDim (on_cpu::launch->grid)
#define shared_memory (on_cpu::current->shared)
#define SPINNING on_cpu::spin()

inline void __syncthreads() { on_cpu::barrier(); }
inline void __syncwarp(unsigned mask = 0xffffffffu) {
  on_cpu::collective(on_cpu::SYNC, mask, 0, 0);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T x, int by) {
  return on_cpu::of_bits<T>(on_cpu::collective(on_cpu::XOR, mask, on_cpu::bits(x), by));
}
template <class T>
T __shfl_sync(unsigned mask, T x, int from) {
  return on_cpu::of_bits<T>(on_cpu::collective(on_cpu::SHUFFLE, mask, on_cpu::bits(x), from));
}
inline unsigned __ballot_sync(unsigned mask, bool x) {
  return unsigned(on_cpu::collective(on_cpu::BALLOT, mask, x, 0));
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline void __threadfence() {}
template <class T>
T atomicAdd(T* where, T by) {
  const T before = *where;
  *where += by;
  return before;
}
inline double sinpi(double x) { return std::sin(3.14159265358979323846 * x); }
inline double cospi(double x) { return std::cos(3.14159265358979323846 * x); }
inline float __fmul_rn(float x, float y) { return x * y; }

// as UndefinedBehaviorSanitizer calls it at a misaligned access
extern "C" __attribute__((visibility("hidden"))) void __ubsan_handle_type_mismatch_v1(void*, uintptr_t) {
  on_cpu::fail("a misaligned access of 16 bytes");
}
