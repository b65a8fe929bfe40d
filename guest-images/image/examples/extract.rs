//! Writes the image and its ELF file into a folder, to boot and debug them by hand:
//!
//! ```text
//! cargo run -p tdxlab-guest-image --example extract -- FOLDER
//! ```

use std::path::PathBuf;
use std::{env, fs, io, process};

fn main() -> io::Result<()> {
    let Some(folder) = env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: extract FOLDER");
        process::exit(64);
    };
    fs::create_dir_all(&folder)?;
    for (name, bytes) in [
        ("micro.bin", &tdxlab_guest_image::IMAGE[..]),
        ("micro.elf", tdxlab_guest_image::ELF),
    ] {
        let path = folder.join(name);
        fs::write(&path, bytes)?;
        println!("{}", path.display());
    }
    Ok(())
}
