/work/main/guest-images/linux/target/debug/deps/agent-a504973896d4621c.d: src/main.rs src/boot.rs src/buffer.rs src/failure.rs src/fatal.rs src/kexec.rs src/line.rs src/load.rs src/memory.rs src/pages.rs src/serve.rs src/td.rs src/witness.rs Cargo.toml

/work/main/guest-images/linux/target/debug/deps/libagent-a504973896d4621c.rmeta: src/main.rs src/boot.rs src/buffer.rs src/failure.rs src/fatal.rs src/kexec.rs src/line.rs src/load.rs src/memory.rs src/pages.rs src/serve.rs src/td.rs src/witness.rs Cargo.toml

src/main.rs:
src/boot.rs:
src/buffer.rs:
src/failure.rs:
src/fatal.rs:
src/kexec.rs:
src/line.rs:
src/load.rs:
src/memory.rs:
src/pages.rs:
src/serve.rs:
src/td.rs:
src/witness.rs:
Cargo.toml:

# env-dep:CLIPPY_ARGS=-D__CLIPPY_HACKERY__warnings__CLIPPY_HACKERY__
# env-dep:CLIPPY_CONF_DIR
