//! How the programs of this crate are linked.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // A container's runtime is short, so that relocating itself counts, and more where an emulator has to translate it
    // anew at other addresses (docs/performance.md). It needs no address that nobody can guess, because it hears
    // nothing from its container but that it ended.
    for word in ["-static", "-no-pie"] {
        println!("cargo::rustc-link-arg-bin=vmm-namespaces={word}");
    }
}
