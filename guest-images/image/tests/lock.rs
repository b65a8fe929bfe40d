//! The guests' own Cargo.lock files name only crates that the workspace's names, too, so that
//! `cargo fetch` for the workspace suffices to build the guests offline.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

/// Name, version and checksum of every crate from a registry.
fn crates(lock: &Path) -> HashSet<String> {
    let text = fs::read_to_string(lock).expect("the lock file is checked in");
    text.split("[[package]]")
        .filter(|package| package.contains("checksum = "))
        .map(|package| {
            let fields = ["name = ", "version = ", "checksum = "];
            let lines = package.lines();
            let lines = lines.filter(|line| fields.iter().any(|field| line.starts_with(field)));
            lines.collect::<Vec<_>>().join(", ")
        })
        .collect()
}

#[test]
fn the_guests_need_no_crate_that_the_workspace_has_not() {
    let image = Path::new(env!("CARGO_MANIFEST_DIR"));
    let workspace = crates(&image.join("../../Cargo.lock"));
    for guest in ["micro", "linux"] {
        let lock = image.join("..").join(guest).join("Cargo.lock");
        let needed = crates(&lock);
        assert!(!needed.is_empty());
        let missing: Vec<_> = needed.difference(&workspace).collect();
        assert!(
            missing.is_empty(),
            "bring {} in line with Cargo.lock: {missing:#?}",
            lock.display()
        );
    }
}
