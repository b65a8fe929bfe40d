//! Builds the programs of guests: the micro guest, with its finished image, and the agent of Linux
//! guests.
//!
//! 1. A nested cargo builds `guest-images/micro`, with flags for a guest and a target folder of its
//!    own; another one `guest-images/linux`, as a static program.
//! 2. The loadable segment of the micro guest's ELF file becomes the image; the TDVF metadata is
//!    written into it.
//! 3. `src/lib.rs` includes image and agent; the ELF file stays beside it for the debugger.

mod tdvf;

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use object::{Object, ObjectSegment};
use tdxlab_protocol::layout;

/// The image is ROM below this address.
const ROM_END: u64 = 1 << 32;

fn main() {
    let manifest = PathBuf::from(variable("CARGO_MANIFEST_DIR"));
    let out = PathBuf::from(variable("OUT_DIR"));
    let guest_images = manifest.parent().expect("the crate lies in guest-images");
    for source in [
        "micro/src",
        "micro/Cargo.toml",
        "micro/Cargo.lock",
        "micro/link.ld",
        "linux/src",
        "linux/Cargo.toml",
        "linux/Cargo.lock",
        "linux/module",
    ] {
        watch(&guest_images.join(source));
    }
    for source in ["protocol/src", "protocol/Cargo.toml"] {
        watch(&guest_images.join(source));
    }
    // The protocol crate inherits from the manifest of the workspace.
    watch(&guest_images.join("../Cargo.toml"));
    watch(&manifest.join("build"));

    let built = built(&out);
    let elf = build_micro(&guest_images.join("micro"), &built.join("micro"));
    let mut image = flatten(&fs::read(&elf).expect("cargo has written the ELF file"));
    tdvf::write(&mut image);
    fs::write(out.join("micro.bin"), &image).expect("OUT_DIR is writable");
    fs::copy(&elf, out.join("micro.elf")).expect("OUT_DIR is writable");

    let agent = build_agent(&guest_images.join("linux"), &built.join("linux"));
    fs::copy(&agent, out.join("agent")).expect("OUT_DIR is writable");
}

/// Where the nested cargos build: beside cargo's folder `build`, in one place for tests, clippy, rustdoc and
/// every choice of features, each of which has an `OUT_DIR` of its own, two or three folders below. They
/// lock it.
fn built(out: &Path) -> PathBuf {
    let mut near = out.ancestors().take(4);
    let build = near.find(|folder| folder.ends_with("build"));
    match build.and_then(Path::parent) {
        Some(profile) => profile.join("guest-images"),
        None => out.to_owned(),
    }
}

/// Rebuilds when anything in `path` changes.
fn watch(path: &Path) {
    println!("cargo::rerun-if-changed={}", path.display());
}

fn variable(name: &str) -> OsString {
    env::var_os(name).unwrap_or_else(|| panic!("cargo sets {name}"))
}

/// Builds the micro guest and returns its ELF file.
fn build_micro(source: &Path, target: &Path) -> PathBuf {
    let link = |argument: String| format!("-Clink-arg={argument}");
    let mut flags = vec![
        "-Cpanic=abort".to_owned(),
        // The guest runs at its link address.
        "-Crelocation-model=static".to_owned(),
        "-Cforce-frame-pointers=yes".to_owned(),
        link("-nostartfiles".to_owned()),
        link("-nostdlib".to_owned()),
        link("-static".to_owned()),
        link("-no-pie".to_owned()),
        link("-Wl,--build-id=none,-z,noexecstack".to_owned()),
        link(format!("-Wl,-T,{}", source.join("link.ld").display())),
        link(format!("-Wl,--defsym=IMAGE_COPY={:#x}", layout::IMAGE_COPY)),
        link(format!(
            "-Wl,--defsym=RUNTIME_END={:#x}",
            layout::RUNTIME_END
        )),
    ];
    flags.extend(no_folders(source));
    build(source, target, &flags, "micro")
}

/// Builds the agent, which runs without any library beside it, and returns the program.
fn build_agent(source: &Path, target: &Path) -> PathBuf {
    let mut flags = vec![
        "-Ctarget-feature=+crt-static".to_owned(),
        "-Crelocation-model=static".to_owned(),
        "-Clink-arg=-Wl,--build-id=none".to_owned(),
    ];
    flags.extend(no_folders(source));
    build(source, target, &flags, "agent")
}

/// Panics name source files; those of dependencies would name this machine's folders.
fn no_folders(source: &Path) -> Vec<String> {
    let repository = source.ancestors().nth(2);
    let registry = env::var_os("CARGO_HOME").map(|home| PathBuf::from(home).join("registry/src"));
    [(repository, ""), (registry.as_deref(), "registry")]
        .into_iter()
        .filter_map(|(prefix, name)| Some((prefix?, name)))
        .map(|(prefix, name)| format!("--remap-path-prefix={}={name}", prefix.display()))
        .collect()
}

/// Builds the program `name` with these flags and no others.
fn build(source: &Path, target: &Path, flags: &[String], name: &str) -> PathBuf {
    let mut cargo = Command::new(variable("CARGO"));
    cargo
        .args([
            "build",
            "--release",
            "--locked",
            "--target",
            "x86_64-unknown-linux-gnu",
        ])
        .arg("--manifest-path")
        .arg(source.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(target)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    // Settings of the outer cargo must not apply to the guest.
    for name in outer_settings() {
        cargo.env_remove(name);
    }
    let status = cargo.status().expect("the cargo that runs this can be run");
    assert!(
        status.success(),
        "{} did not build ({status}); its messages are above. A static program needs the static C \
         library (libc6-dev, glibc-static)",
        source.display()
    );
    target.join("x86_64-unknown-linux-gnu/release").join(name)
}

/// Variables that would change how the guest is built: wrappers such as clippy's, profiles, flags.
fn outer_settings() -> impl Iterator<Item = OsString> {
    const NAMES: [&str; 8] = [
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTFLAGS",
        "RUSTDOCFLAGS",
        "CLIPPY_ARGS",
        "CARGO_TARGET_DIR",
        "CARGO_INCREMENTAL",
        "__CARGO_DEFAULT_LIB_METADATA",
    ];
    const PREFIXES: [&str; 3] = ["CARGO_BUILD_", "CARGO_PROFILE_", "CARGO_TARGET_"];
    env::vars_os().map(|(name, _)| name).filter(|name| {
        let name = name.to_string_lossy();
        NAMES.contains(&name.as_ref()) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
    })
}

/// Takes the one loadable segment with content out of an ELF file.
fn flatten(elf: &[u8]) -> Vec<u8> {
    let file = object::File::parse(elf).expect("the linker has written an ELF file");
    let mut segments = file
        .segments()
        .filter(|segment| segment.file_range().1 != 0);
    let segment = segments.next().expect("the image is a segment");
    assert!(
        segments.next().is_none(),
        "the image is the only segment with content"
    );
    assert_eq!(segment.address(), layout::IMAGE_COPY, "start of the image");
    let image = segment
        .data()
        .expect("the segment lies in the file")
        .to_vec();
    assert_eq!(image.len() as u64, layout::IMAGE_BYTES, "size of the image");
    image
}
