//! The program `potluck`.

fn main() -> std::process::ExitCode {
    potluck::main()
}
