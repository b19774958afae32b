#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vmm::devices::virtio::fuzz::overlay(data));
