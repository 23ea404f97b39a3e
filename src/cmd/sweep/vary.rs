//! What a sweep varies: keys, values, and the target and options of every combination.

use crate::args::{CompileArgs, Precision};
use crate::diag::{Failure, Outcome};
use clap::ValueEnum;
use lockstep::{Chips, Target, files};

/// A key and its values, as given.
pub type Vary = (String, Vec<String>);

/// One combination.
pub struct Combination {
    /// Key and value, in the order of the keys.
    pub values: Vec<(String, String)>,
    /// The machine.
    pub target: Target,
    /// How to compile for it.
    pub options: CompileArgs,
}

/// Keys that are no figure of a target file.
const KEYS: [&str; 5] = ["chips", "precision", "target", "sram_mib", "link_gbps"];

/// All combinations: the last key changes fastest.
///
/// # Errors
/// No key; a key twice, unknown, or fixed by an option; a value that is not allowed; more than `most` combinations.
pub fn combinations(vary: &[Vary], base: &CompileArgs, most: usize) -> Outcome<Vec<Combination>> {
    check(vary, base)?;
    let count = vary
        .iter()
        .fold(1usize, |n, (_, values)| n.saturating_mul(values.len()));
    if count > most {
        return Err(Failure::usage(format!(
            "--vary lists {count} combinations; allowed are {most}"
        )));
    }
    let mut lists: Vec<Vec<(String, String)>> = vec![Vec::new()];
    for (key, values) in vary {
        let longer = lists.iter().flat_map(|list| {
            values.iter().map(|value| {
                let mut list = list.clone();
                list.push((key.clone(), value.clone()));
                list
            })
        });
        lists = longer.collect();
    }
    lists.into_iter().map(|values| combination(values, base)).collect()
}

fn check(vary: &[Vary], base: &CompileArgs) -> Outcome {
    for (i, (key, _)) in vary.iter().enumerate() {
        if vary.iter().take(i).any(|(other, _)| other == key) {
            return Err(Failure::usage(format!(
                "--vary {key} is given twice; list all values in one"
            )));
        }
        let fixed = match key.as_str() {
            "chips" => base.chips != Chips::Auto,
            "precision" => base.precision.is_some(),
            _ => false,
        };
        if fixed {
            return Err(Failure::usage(format!(
                "--vary {key} contradicts --{key}; give one of them"
            )));
        }
    }
    Ok(())
}

fn combination(values: Vec<(String, String)>, base: &CompileArgs) -> Outcome<Combination> {
    let mut options = base.clone();
    let wrong = |key: &str, value: &str, allowed: &str| {
        Err(Failure::usage(format!(
            "--vary {key}: found {value:?}, allowed are {allowed}"
        )))
    };
    for (key, value) in &values {
        match key.as_str() {
            "chips" => match crate::args::chips(value) {
                Ok(chips) => options.chips = chips,
                Err(_) => return wrong(key, value, "auto and 1 to 65535"),
            },
            "precision" => match Precision::from_str(value, false) {
                Ok(precision) => options.precision = Some(precision),
                Err(_) if value == "model" => {}
                Err(_) => return wrong(key, value, "model, f16 and bf16"),
            },
            "target" => options.target.clone_from(value),
            _ => {}
        }
    }
    let mut target = files::target(&options.target)?;
    for (key, value) in &values {
        target = match key.as_str() {
            "chips" | "precision" | "target" => continue,
            "sram_mib" => {
                let Some(mib) = positive(value) else {
                    return wrong(key, value, "numbers above 0");
                };
                // Rows of a bank come closest: the other sizes of a chip are its wiring.
                let per_row = target.sram_bytes() as f64 / f64::from(target.rows.max(1));
                set(&target, "mem.rows", &format!("{:.0}", mib * 1_048_576.0 / per_row), key)?
            }
            "link_gbps" => {
                let Some(gbps) = positive(value) else {
                    return wrong(key, value, "numbers above 0");
                };
                let bits = 8.0 * target.word_bytes() as f64;
                let cycles = (bits * target.clock_hz as f64 / (gbps * 1e9)).ceil();
                set(&target, "c2c.cycles_per_word", &format!("{cycles:.0}"), key)?
            }
            _ => set(&target, key, value, key)?,
        };
    }
    Ok(Combination {
        values,
        target,
        options,
    })
}

fn positive(text: &str) -> Option<f64> {
    text.parse().ok().filter(|v: &f64| v.is_finite() && *v > 0.0)
}

/// The target with one figure changed, by way of its file, so that a sweep allows what a target file allows.
fn set(target: &Target, field: &str, value: &str, key: &str) -> Outcome<Target> {
    let figures = target.figures();
    if !figures.iter().any(|f| f.field == field) {
        let known = KEYS
            .iter()
            .map(|k| (*k).to_owned())
            .chain(figures.into_iter().map(|f| f.field));
        let known: Vec<String> = known.collect();
        return Err(Failure::usage(format!(
            "--vary {key:?} is not known; allowed are {}",
            known.join(", ")
        )));
    }
    // A word is a string; what else is no number, the parser names.
    let quoted = value.chars().all(|c| c.is_ascii_alphabetic() || c == '-') && !value.is_empty();
    let value = if quoted {
        format!("\"{value}\"")
    } else {
        value.to_owned()
    };
    if value.contains(['\n', '\r', '#']) {
        return Err(Failure::usage(format!(
            "--vary {key}: {value:?} is no value of a target file"
        )));
    }
    let (table, name) = field.rsplit_once('.').unwrap_or(("", field));
    let mut now = String::new();
    let text = target.to_toml();
    let changed = text.lines().map(|line| {
        if let Some(head) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            head.clone_into(&mut now);
        }
        match line.split_once(" = ") {
            Some((left, _)) if now == table && left == name => format!("{name} = {value}\n"),
            _ => format!("{line}\n"),
        }
    });
    let text: String = changed.collect();
    Target::parse_toml(&target.name, &text).map_err(|e| {
        Failure::usage(if key == field {
            e.to_string()
        } else {
            format!("--vary {key}: {e}")
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Options {
        #[command(flatten)]
        args: CompileArgs,
    }

    fn all(vary: &[(&str, &[&str])]) -> Outcome<Vec<Combination>> {
        let base = Options::try_parse_from(["x"]).expect("the defaults").args;
        let vary: Vec<Vary> = vary
            .iter()
            .map(|(k, v)| ((*k).to_owned(), v.iter().map(|s| (*s).to_owned()).collect()))
            .collect();
        combinations(&vary, &base, 16)
    }

    #[test]
    fn sizes_become_figures_of_the_target() {
        let found = all(&[("sram_mib", &["110", "220"]), ("link_gbps", &["50", "100"])]).expect("four");
        let of = |c: &Combination| (c.target.rows, c.target.c2c.cycles_per_word);
        let figures: Vec<_> = found.iter().map(of).collect();
        assert_eq!(figures, [(2048, 47), (2048, 24), (4096, 47), (4096, 24)]);
        assert_eq!(found[3].target.sram_bytes(), 220 << 20);
        let found = all(&[("mxm.f32.cycles_per_vector", &["4"]), ("topology.kind", &["nodes"])]).expect("one");
        assert_eq!(found[0].target.mxm.f32.map(|r| r.cycles_per_vector), Some(4));
        let found = all(&[("target", &["toy", "cpu"]), ("energy.hop_bit", &["0.5"])]).expect("two");
        assert_eq!((found[0].target.lanes, found[1].target.energy.hop_bit), (32, 0.5));
    }

    #[test]
    fn wrong_values_are_named() {
        let message = |vary: &[(&str, &[&str])]| all(vary).map(|_| ()).expect_err("an error").message;
        assert!(
            message(&[("rows", &["1"])])
                .contains("allowed are chips, precision, target, sram_mib, link_gbps, clock_hz")
        );
        assert!(message(&[("chips", &["0"])]).contains("auto and 1 to 65535"));
        assert!(message(&[("precision", &["f8"])]).contains("model, f16 and bf16"));
        assert!(message(&[("sram_mib", &["-1"])]).contains("above 0"));
        assert!(message(&[("sram_mib", &["1e9"])]).contains("mem.rows"));
        assert!(message(&[("lanes", &["33"])]).contains("a multiple of 16"));
        assert!(message(&[("lanes", &["1\nx = 2"])]).contains("no value"));
        assert!(message(&[("chips", &["1"]), ("chips", &["2"])]).contains("twice"));
    }
}
