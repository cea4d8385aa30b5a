"""3D hand meshes of both hands of the main person in every frame."""
