"""Recurrent networks that draw pictures pixel by pixel: data, models, trainings."""
