//! The first process of a container's guest.

fn main() {}
