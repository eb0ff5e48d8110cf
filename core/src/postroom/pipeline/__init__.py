"""Runs a plan: makes the calls in order, contains what fails, and joins the verdicts to an outcome."""

from postroom.pipeline.demand import Demand, Kinds
from postroom.pipeline.pipeline import Pipeline, PipelineUnavailable, RegistryReader

__all__ = ["Demand", "Kinds", "Pipeline", "PipelineUnavailable", "RegistryReader"]
