//! What became of a test, and its line in the exchange between the runner and its workers.

use serde_json::{Value, json};

/// What became of a test on one executor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// The expected results.
    #[default]
    Passed,
    /// Anything else, by stage.
    Failed(String, String),
    /// Refused with a reason.
    Unsupported(String),
}

impl Outcome {
    /// A failure in a stage.
    pub fn failed(stage: &str, message: impl Into<String>) -> Outcome {
        Outcome::Failed(
            stage.to_string(),
            message.into().lines().next().unwrap_or("").to_string(),
        )
    }

    /// Whether the results were as expected.
    pub fn passed(&self) -> bool {
        *self == Outcome::Passed
    }

    /// `passed`, `failed` or `unsupported`.
    pub fn class(&self) -> &'static str {
        match self {
            Outcome::Passed => "passed",
            Outcome::Failed(..) => "failed",
            Outcome::Unsupported(_) => "unsupported",
        }
    }

    /// Stage and message in one line; empty for a pass.
    pub fn reason(&self) -> String {
        match self {
            Outcome::Passed => String::new(),
            Outcome::Failed(stage, message) => format!("{stage}: {message}"),
            Outcome::Unsupported(reason) => reason.clone(),
        }
    }

    fn json(&self) -> Value {
        match self {
            Outcome::Passed => json!(["passed"]),
            Outcome::Failed(stage, message) => json!(["failed", stage, message]),
            Outcome::Unsupported(reason) => json!(["unsupported", reason]),
        }
    }

    fn of(value: &Value) -> Outcome {
        let text = |i: usize| value[i].as_str().unwrap_or("").to_string();
        match text(0).as_str() {
            "passed" => Outcome::Passed,
            "unsupported" => Outcome::Unsupported(text(1)),
            _ => Outcome::Failed(text(1), text(2)),
        }
    }
}

/// What became of a test.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// Name of the test.
    pub name: String,
    /// Operator of its only node.
    pub operator: Option<String>,
    /// Version of the operator set.
    pub opset: i64,
    /// Inputs that were fixed at compile time.
    pub fixed: Vec<String>,
    /// Target that it was compiled for.
    pub target: String,
    /// Chips of the artifacts.
    pub chips: Vec<u16>,
    /// The interpreter.
    pub eval: Outcome,
    /// The simulator.
    pub sim: Outcome,
    /// The cpu executor.
    pub cpu: Outcome,
    /// The opencl executor, where it was asked for.
    pub opencl: Option<Outcome>,
    /// Largest error in units of the last place.
    pub ulp: f64,
    /// Milliseconds that it took.
    pub millis: u64,
}

impl Record {
    /// Sets all outcomes.
    pub fn all(&mut self, outcome: &Outcome) {
        (self.eval, self.sim, self.cpu) = (outcome.clone(), outcome.clone(), outcome.clone());
    }

    /// The worst outcome, the interpreter's first.
    pub fn outcome(&self) -> &Outcome {
        let all = [&self.eval, &self.sim, &self.cpu];
        all.into_iter()
            .chain(&self.opencl)
            .find(|o| !o.passed())
            .unwrap_or(&self.cpu)
    }

    /// One line.
    pub fn line(&self) -> String {
        json!({
            "name": self.name, "operator": self.operator, "opset": self.opset, "fixed": self.fixed, "target": self.target, "chips": self.chips,
            "eval": self.eval.json(), "sim": self.sim.json(), "cpu": self.cpu.json(), "opencl": self.opencl.as_ref().map(Outcome::json), "ulp": self.ulp, "millis": self.millis,
        })
        .to_string()
    }

    /// Reads a line.
    pub fn parse(line: &str) -> Option<Record> {
        let v: Value = serde_json::from_str(line).ok()?;
        Some(Record {
            name: v["name"].as_str()?.to_string(),
            operator: v["operator"].as_str().map(str::to_string),
            opset: v["opset"].as_i64()?,
            fixed: v["fixed"]
                .as_array()?
                .iter()
                .filter_map(|s| s.as_str().map(str::to_string))
                .collect(),
            target: v["target"].as_str()?.to_string(),
            chips: v["chips"]
                .as_array()?
                .iter()
                .filter_map(|n| n.as_u64().map(|n| n as u16))
                .collect(),
            eval: Outcome::of(&v["eval"]),
            sim: Outcome::of(&v["sim"]),
            cpu: Outcome::of(&v["cpu"]),
            opencl: v.get("opencl").filter(|o| !o.is_null()).map(Outcome::of),
            ulp: v["ulp"].as_f64()?,
            millis: v["millis"].as_u64()?,
        })
    }
}
