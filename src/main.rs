//! The `fanfare` program.

/// What glibc's spends on finding room is a quarter of the CPU of a busy node; what a connection takes is the same.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    fanfare::cli::main()
}
