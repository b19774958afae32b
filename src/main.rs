//! The `vmm` command.
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let mut c =
        vmm::config::PartialConfig { kernel: Some(a[1].clone().into()), ..Default::default() };
    if a.len() > 2 {
        c.append = Some(a[2].clone());
    }
    if a.len() > 3 {
        c.initrd = Some(a[3].clone().into());
    }
    let c = c.resolve().unwrap();
    match vmm::control::boot(&c) {
        Ok(o) => {
            eprintln!("{}", o.end);
            if let Some(e) = o.explanation {
                eprintln!("{e}");
            }
        }
        Err(e) => eprintln!("{e:?}"),
    }
}
