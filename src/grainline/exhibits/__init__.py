"""The evidence: one file per published system, with its claims, their measurement and a figure."""

# Exhibit → module here. Listed by hand, so that what there is can be read in one place and nothing is imported early.
EXHIBITS: dict[str, str] = {
    "bigmac": "bigmac",
    "comet-moe": "comet_moe",
    "flashmoe": "flashmoe",
    "exflow": "exflow",
    "fenghuang": "fenghuang",
    "gpipe": "gpipe",
    "hecto": "hecto",
    "hep-daq": "hep_daq",
    "holmes": "holmes",
    "ling2": "ling2",
    "ling2-pipeline": "ling2_pipeline",
    "megatron-ptdp": "megatron_ptdp",
    "melange": "melange",
    "modern-cpp": "modern_cpp",
    "moetuner": "moetuner",
    "moe-plus-plus": "moe_plus_plus",
    "pipette": "pipette",
    "quickstart": "quickstart",
    "rexmoe": "rexmoe",
    "sonicmoe": "sonicmoe",
    "skippipe": "skippipe",
    "vocabulary-parallelism": "vocabulary_parallelism",
    "zaya-amd": "zaya_amd",
}

__all__ = ["EXHIBITS"]
