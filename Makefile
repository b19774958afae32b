# Everything is done by `cargo xtask`; `cargo xtask help` says more.

.PHONY: run test bench fuzz doctor shell

# Boot a Linux guest: a shell on a terminal, a scripted visit without one.
run:
	cargo xtask demo

# Every test, each in a place that can run it.
test:
	cargo xtask test

# The figures of docs/performance.md.
bench:
	cargo xtask bench

# Hostile inputs for T seconds each: queues, registers, devices, configuration.
T = 60
fuzz:
	cargo xtask fuzz --time $(T)

# What this machine offers to vmm, and what it lacks.
doctor:
	cargo run --quiet --release --package vmm -- doctor

# A shell in the emulated host, with the fresh build on its PATH.
shell:
	cargo xtask host shell
