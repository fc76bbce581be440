// Signals that end a run in good order.
#pragma once

namespace dattn {

/// From now on SIGINT, SIGTERM, SIGHUP (the terminal is closed) and SIGPIPE (nobody reads the output) ask the run to
/// stop, but for those that the program was started to ignore, as by nohup. A second signal, from a second later on,
/// ends the program at once.
void heed_stop_signals();

/// Whether one of them has come since.
bool stop_asked();

}  // namespace dattn
