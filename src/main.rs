//! The program is its own launcher: it must find out which of the two it is before anything else.

use std::process::ExitCode;

fn main() -> ExitCode {
    if zerostack_sandbox::is_launcher() {
        let code = zerostack_sandbox::run_launcher(zerostack::worker::serve);
        return ExitCode::from(code as u8);
    }
    zerostack::app::run()
}
