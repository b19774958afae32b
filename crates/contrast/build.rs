//! How the programs of this crate are linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // A container's runtime is short: relocating itself, at an address of its own each time, is a tenth of what it does.
    // It needs no address that nobody can guess, because it hears nothing from its container but that it ended.
    for word in ["-static", "-no-pie"] {
        println!("cargo::rustc-link-arg-bin=vmm-namespaces={word}");
    }
}
