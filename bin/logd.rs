//! The `logd` binary: runs the command and ends as it says.

use logd::cli::{self, Exit};
use logd::sys::signals;
use std::process::ExitCode;

fn main() -> ExitCode {
    // Without it such a write ends the process, as it would any other: no reason not to run.
    let _ = signals::survive_file_size_limit();
    let exit = cli::run(std::env::args_os());
    if let Exit::Signal(signal) = exit {
        // Ended by the signal itself, so that a shell sees 128+N and stops its script too.
        signals::die_by(signal.into());
    }
    ExitCode::from(exit.code())
}
