//! Developer commands of the project.

fn main() {}
