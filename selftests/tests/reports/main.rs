//! Output of runs: the page, formats of other projects, comparisons, and runs on many machines.

mod bisect;
mod compare;
mod cost;
mod engines;
mod fleet;
mod formats;
mod kselftest;
mod ktap_stream;
mod page;
mod runs;
