"""The methods, on torch tensors alone: this package knows neither ComfyUI nor diffusers."""
