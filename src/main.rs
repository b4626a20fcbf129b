//! The `zraft` program.

fn main() {}
