//! `vmm-image`: brings container images into the store of `vmm`.

use std::process::ExitCode;

fn main() -> ExitCode {
    vmm_image::helper::main()
}
