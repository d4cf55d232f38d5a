//! The `ostler` program; everything is in the library of this crate, so that tests and fuzz targets
//! reach it.

fn main() -> std::process::ExitCode {
    ostler_cli::main()
}
