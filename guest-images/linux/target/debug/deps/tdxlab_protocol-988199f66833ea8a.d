/work/main/guest-images/linux/target/debug/deps/tdxlab_protocol-988199f66833ea8a.d: /work/main/guest-images/protocol/src/lib.rs /work/main/guest-images/protocol/src/addr.rs /work/main/guest-images/protocol/src/frame.rs /work/main/guest-images/protocol/src/generation.rs /work/main/guest-images/protocol/src/layout.rs /work/main/guest-images/protocol/src/linux.rs /work/main/guest-images/protocol/src/mailbox.rs /work/main/guest-images/protocol/src/message.rs /work/main/guest-images/protocol/src/pattern.rs /work/main/guest-images/protocol/src/runs.rs /work/main/guest-images/protocol/src/tdcall.rs

/work/main/guest-images/linux/target/debug/deps/libtdxlab_protocol-988199f66833ea8a.rmeta: /work/main/guest-images/protocol/src/lib.rs /work/main/guest-images/protocol/src/addr.rs /work/main/guest-images/protocol/src/frame.rs /work/main/guest-images/protocol/src/generation.rs /work/main/guest-images/protocol/src/layout.rs /work/main/guest-images/protocol/src/linux.rs /work/main/guest-images/protocol/src/mailbox.rs /work/main/guest-images/protocol/src/message.rs /work/main/guest-images/protocol/src/pattern.rs /work/main/guest-images/protocol/src/runs.rs /work/main/guest-images/protocol/src/tdcall.rs

/work/main/guest-images/protocol/src/lib.rs:
/work/main/guest-images/protocol/src/addr.rs:
/work/main/guest-images/protocol/src/frame.rs:
/work/main/guest-images/protocol/src/generation.rs:
/work/main/guest-images/protocol/src/layout.rs:
/work/main/guest-images/protocol/src/linux.rs:
/work/main/guest-images/protocol/src/mailbox.rs:
/work/main/guest-images/protocol/src/message.rs:
/work/main/guest-images/protocol/src/pattern.rs:
/work/main/guest-images/protocol/src/runs.rs:
/work/main/guest-images/protocol/src/tdcall.rs:
