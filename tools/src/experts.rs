//! How evenly the tokens went to the experts, for `--stats`.

use crate::report::Table;
use npu_models::ExpertTokens;
use serde::Serialize;
use std::fmt;

/// The experts of one layer.
#[derive(Debug, PartialEq, Serialize)]
struct Layer {
    layer: usize,
    tokens: Vec<u64>,
    /// The busiest expert's tokens over the mean.
    imbalance: f64,
}

/// The experts of all layers.
#[derive(Debug, PartialEq, Serialize)]
pub struct ExpertLoad {
    layers: Vec<Layer>,
    /// What the busiest expert of each layer had to do over what an even share would have been, all layers together.
    imbalance: f64,
}

impl ExpertLoad {
    /// Nothing of models without experts.
    pub fn of(counted: Vec<ExpertTokens>) -> Option<Self> {
        let layers = counted.into_iter().filter_map(|experts| {
            Some(Layer { imbalance: experts.imbalance()?, layer: experts.layer, tokens: experts.tokens })
        });
        let layers: Vec<Layer> = layers.collect();
        let most = layers.iter().map(|layer| layer.most() as f64).sum::<f64>();
        let mean = layers.iter().map(Layer::mean).sum::<f64>();
        (!layers.is_empty()).then(|| Self { imbalance: most / mean, layers })
    }
}

impl Layer {
    fn most(&self) -> u64 {
        self.tokens.iter().copied().max().unwrap_or_default()
    }

    fn mean(&self) -> f64 {
        self.tokens.iter().sum::<u64>() as f64 / self.tokens.len() as f64
    }
}

impl fmt::Display for ExpertLoad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(&["experts of layer", "tokens", "an expert", "busiest", "idle", "imbalance"]);
        for layer in &self.layers {
            let most = layer.most();
            let busiest = layer.tokens.iter().position(|tokens| *tokens == most).unwrap_or_default();
            table.row([
                layer.layer.to_string(),
                layer.tokens.iter().sum::<u64>().to_string(),
                format!("{:.1}", layer.mean()),
                format!("{most} (expert {busiest})"),
                layer.tokens.iter().filter(|tokens| **tokens == 0).count().to_string(),
                format!("{:.2}", layer.imbalance),
            ]);
        }
        writeln!(f, "{table}imbalance of all layers: {:.2} (1 is even)", self.imbalance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn imbalance_is_the_busiest_over_the_mean() {
        let of = |layer, tokens: &[u64]| ExpertTokens { layer, tokens: tokens.to_vec() };
        assert_eq!(ExpertLoad::of(Vec::new()), None);
        assert_eq!(ExpertLoad::of(vec![of(0, &[0, 0])]), None);
        let load = ExpertLoad::of(vec![of(1, &[6, 0, 1, 1]), of(2, &[2, 2, 2, 2])]).expect("two layers");
        assert_eq!((load.layers[0].imbalance, load.layers[1].imbalance), (3.0, 1.0));
        // 6 and 2 at most, of 2 and 2.
        assert_eq!(load.imbalance, 2.0);
        let text = load.to_string();
        let line = text.lines().nth(1).expect("a layer");
        assert_eq!(line.split_whitespace().collect::<Vec<_>>(), ["1", "8", "2.0", "6", "(expert", "0)", "1", "3.00"]);
    }
}
