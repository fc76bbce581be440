// Whether the stream records a step (cuda/step_graph.h), and what may not be part of one.
#pragma once

namespace dattn::cuda {

/// Whether the stream records what it is given for replays in place of running it.
bool is_recording();
/// Error `cuda: <what> cannot be part of a recorded step: <why>` where the stream records.
void refuse_in_recording(const char* what, const char* why);

}  // namespace dattn::cuda
