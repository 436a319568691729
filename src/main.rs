//! The binary: hands the arguments to [`cli`] and its exit code to the system.

mod cli;

/// Its settings stand in `.cargo/config.toml`, the reasons in docs/decisions/0014-the-allocator.md.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    cli::main()
}
