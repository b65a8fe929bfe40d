//! Compares the software TDX module with recorded answers of Intel's; runs where the modules are
//! loaded.
//!
//! ```text
//! tdxlab rehearse --command target/debug/examples/vectors -- tdx-module.csv
//! ```

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::process::ExitCode;

use tdxlab_softtdx::vectors::{Module, compare, rows};

const FILE: &str = "/sys/kernel/debug/softtdx/vectors";

struct Debugfs(File);

impl Module for Debugfs {
    fn perform(&mut self, line: &str) -> io::Result<String> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("{line}: {error}"));
        self.0.write_all(line.as_bytes()).map_err(named)?;
        let mut said = [0; 256];
        let length = self.0.read(&mut said)?;
        Ok(String::from_utf8_lossy(&said[..length]).into_owned())
    }
}

fn run(table: &str) -> Result<bool, String> {
    let text = std::fs::read_to_string(table).map_err(|error| format!("{table}: {error}"))?;
    let file = OpenOptions::new().read(true).write(true).open(FILE);
    let file = file.map_err(|error| format!("{FILE}: {error}"))?;
    let compared = compare(&rows(&text)?, &mut Debugfs(file)).map_err(|error| error.to_string())?;
    print!("{compared}");
    Ok(compared.differ.is_empty() && compared.agree > 0)
}

fn main() -> ExitCode {
    let Some(table) = std::env::args().nth(1) else {
        eprintln!("usage: vectors TABLE");
        return ExitCode::FAILURE;
    };
    match run(&table) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
