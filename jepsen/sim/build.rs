//! Exports the symbols of `determinism` so that libraries which look them up while the program runs find them, too.

fn main() {
    for symbol in ["getrandom", "clock_gettime", "getpid"] {
        println!("cargo::rustc-link-arg-bins=-Wl,--export-dynamic-symbol={symbol}");
    }
}
