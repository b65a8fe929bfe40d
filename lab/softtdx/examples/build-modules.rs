//! Builds the modules from a kernel's source on this machine.
//!
//! ```text
//! cargo run -p tdxlab-softtdx --example build-modules -- SOURCE HEADERS WORK
//! ```

use std::num::NonZero;
use std::process::ExitCode;

use tdxlab_softtdx::make::ThisMachine;
use tdxlab_softtdx::{BuildRequest, build};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [source, headers, work] = words.as_slice() else {
        eprintln!("usage: build-modules SOURCE HEADERS WORK");
        return ExitCode::FAILURE;
    };
    let request = BuildRequest {
        source: source.into(),
        headers: headers.into(),
        work: work.into(),
        work_inside: work.into(),
        jobs: std::thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN),
    };
    match build(&request, &ThisMachine) {
        Ok(modules) => {
            println!("{}\n{}", modules.kvm.display(), modules.kvm_amd.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
