//! The binary: hands the arguments to [`cli`] and its exit code to the system.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
