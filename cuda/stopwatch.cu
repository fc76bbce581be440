// Time between two events on the stream.
#include "cuda/stopwatch.h"

#include "cuda/context.h"

namespace dattn::cuda {

struct Stopwatch::Events {
  cudaEvent_t begin = nullptr, end = nullptr;

  Events() {
    check_cuda(cudaEventCreate(&begin), "making of an event");
    check_cuda(cudaEventCreate(&end), "making of an event");
  }
  ~Events() { cudaEventDestroy(begin), cudaEventDestroy(end); }
  Events(const Events&) = delete;
  Events& operator=(const Events&) = delete;
};

Stopwatch::Stopwatch() : events_(std::make_unique<Events>()) {}
Stopwatch::~Stopwatch() = default;

void Stopwatch::start() { check_cuda(cudaEventRecord(events_->begin, stream()), "begin of a time"); }

double Stopwatch::stop() {
  check_cuda(cudaEventRecord(events_->end, stream()), "end of a time");
  check_cuda(cudaEventSynchronize(events_->end), "wait for the device");
  float milliseconds = 0;
  check_cuda(cudaEventElapsedTime(&milliseconds, events_->begin, events_->end), "time on the device");
  return milliseconds;
}

}  // namespace dattn::cuda
