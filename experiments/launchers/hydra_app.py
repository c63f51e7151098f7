"""A hydra.main function: the same jobs, for Hydra's own launchers."""

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from cellzoo.config.checks import conf_folder
from cellzoo.config.compose import resolved, store_choices
from cellzoo.run.train import train

store_choices()


@hydra.main(version_base="1.3", config_path=str(conf_folder().resolve()), config_name="config")
def main(config: DictConfig) -> None:
    train(resolved(config), Path(HydraConfig.get().runtime.output_dir), progress=False)


if __name__ == "__main__":
    main()
